//! What the process was started with. Read once, in `main`, and handed down.

use std::collections::HashMap;
use std::path::PathBuf;

use super::passed::Passed;

/// The environment.
#[derive(Clone, Default)]
pub struct Environment {
    variables: HashMap<String, String>,
    passed: Passed,
}

impl Environment {
    /// The process's environment; variables that are not UTF-8 are left out. The socket that the service manager passed is
    /// taken, so this comes first, and once.
    #[must_use]
    pub fn of_process() -> Self {
        let utf8 = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let variables = std::env::vars_os().filter_map(utf8).collect();
        let passed = Passed::take(&variables);
        Self { variables, passed }
    }

    /// These variables and no others.
    #[must_use]
    pub fn of(variables: &[(&str, &str)]) -> Self {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Self { variables: variables.iter().map(owned).collect(), passed: Passed::Nothing }
    }

    /// A variable that is set and not empty.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A variable that is set, also when empty.
    #[must_use]
    pub fn raw(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }

    /// The socket to listen on in place of `server.listen`.
    pub(crate) const fn passed(&self) -> &Passed {
        &self.passed
    }

    /// A variable that is a path.
    #[must_use]
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }
}
