//! Tables within tables: each has a reader of its own.

use super::{TableReader, shortened};
use crate::settings::tree::{Node, Span, Table, Value};

impl<'a> TableReader<'a> {
    /// A sub-table, with the defaults' sub-table of that name behind it. Call [`Self::finish`] on it.
    pub fn table(&mut self, key: &'static str) -> Option<TableReader<'a>> {
        self.ask(key);
        let own = self.own.get(key).filter(|entry| !matches!(entry.node.value, Value::Null));
        let default = self.defaults.and_then(|table| table.get(key)).and_then(|entry| match &entry.node.value {
            Value::Table(table) => Some((table, entry.node.span)),
            _ => None,
        });
        let (table, span, defaults) = match (own.map(|entry| &entry.node), default) {
            (Some(Node { value: Value::Table(table), span }), default) => (table, *span, default.map(|d| d.0)),
            (Some(node), _) => {
                self.wrong_type(key, node, "a table");
                return None;
            }
            (None, Some((table, span))) => (table, span, None),
            (None, None) => return None,
        };
        Some(self.child(table, span, self.full(key)).with_defaults(defaults))
    }

    /// A list of tables, such as `headers = [{ name = … }]`. Call [`Self::finish`] on each.
    pub fn tables(&mut self, key: &'static str) -> Option<Vec<TableReader<'a>>> {
        let items = self.list(key)?;
        let mut readers = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            match &item.value {
                Value::Table(table) => {
                    readers.push(self.child(table, item.span, format!("{}[{index}]", self.full(key))));
                }
                _ => self.wrong_type(key, item, "a table"),
            }
        }
        Some(readers)
    }

    /// The table in an element of a list that may hold other things as well; none when it is no table, without a
    /// complaint. Call [`Self::finish`] on it.
    #[must_use]
    pub fn table_of(&self, key: &str, index: usize, node: &'a Node) -> Option<TableReader<'a>> {
        let Value::Table(table) = &node.value else { return None };
        Some(self.child(table, node.span, format!("{}[{index}]", self.full(key))))
    }

    /// Tables whose names are free, such as `[plans.free]`. Call [`Self::finish`] on each.
    pub fn named_tables(&mut self, key: &'static str) -> Vec<(&'a str, TableReader<'a>)> {
        let Some(node) = self.node(key) else { return Vec::new() };
        let Value::Table(table) = &node.value else {
            self.wrong_type(key, node, "a table of tables");
            return Vec::new();
        };
        let mut readers = Vec::with_capacity(table.entries.len());
        for entry in &table.entries {
            let full = format!("{key}.{}", shortened(&entry.key));
            match &entry.node.value {
                Value::Table(inner) => {
                    #[cfg(test)]
                    self.findings.asked.borrow_mut().insert(full.clone());
                    readers.push((&*entry.key, self.child(inner, entry.node.span, self.full(&full))));
                }
                _ => self.wrong_type(&full, &entry.node, "a table"),
            }
        }
        readers
    }

    fn child(&self, own: &'a Table, span: Option<Span>, path: String) -> TableReader<'a> {
        let mut child = TableReader::new(own, span, path, self.origin, self.findings, self.secrets);
        child.outside = self.outside;
        child
    }
}
