//! As much XML as the beginning of an XMPP stream has: tags. Comments, processing instructions and document types are
//! not allowed there (RFC 6120, 11.1).

/// A tag, without its angle brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) text: String,
}

/// The bytes are not the beginning of an XMPP stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotXml;

impl Tag {
    /// The name without its prefix.
    pub(crate) fn name(&self) -> &str {
        let text = self.text.strip_prefix('/').unwrap_or(&self.text);
        let end = text.find(|c: char| c.is_ascii_whitespace() || c == '/').unwrap_or(text.len());
        let name = text.get(..end).unwrap_or_default();
        name.rsplit_once(':').map_or(name, |(_, local)| local)
    }

    pub(crate) fn is(&self, name: &str) -> bool {
        self.name() == name
    }

    /// `<a>`
    pub(crate) fn opens(&self) -> bool {
        !self.closes() && !self.text.ends_with('/') && !self.is_declaration()
    }

    /// `</a>`
    pub(crate) fn closes(&self) -> bool {
        self.text.starts_with('/')
    }

    /// `<?xml …?>`
    pub(crate) fn is_declaration(&self) -> bool {
        self.text.starts_with('?')
    }
}

/// The first tag and where it ends; none while it is not complete. Inside a stream any text may stand before it, such as
/// the name of a mechanism; the stream itself, and an answer, begin with a tag or white space.
pub(crate) fn first_tag(bytes: &[u8], inside: bool) -> Result<Option<(usize, Tag)>, NotXml> {
    let start = bytes.iter().position(|byte| *byte == b'<').unwrap_or(bytes.len());
    if !inside && !bytes.iter().take(start).all(u8::is_ascii_whitespace) {
        return Err(NotXml);
    }
    let mut quote = None;
    for (index, byte) in bytes.iter().enumerate().skip(start + 1) {
        match (quote, byte) {
            (None, b'>') => {
                let text = bytes.get(start + 1..index).unwrap_or_default();
                let text = std::str::from_utf8(text).map_err(|_| NotXml)?.to_owned();
                if text.is_empty() || text.starts_with('!') {
                    return Err(NotXml);
                }
                return Ok(Some((index + 1, Tag { text })));
            }
            (None, b'<') => return Err(NotXml),
            (None, b'"' | b'\'') => quote = Some(*byte),
            (Some(open), close) if open == *close => quote = None,
            _ => {}
        }
    }
    Ok(None)
}

/// For an attribute in single quotes.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('\'', "&apos;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(mut text: &str) -> Vec<String> {
        let mut found = Vec::new();
        while let Some((length, tag)) = first_tag(text.as_bytes(), true).unwrap() {
            let kind = if tag.closes() {
                "/"
            } else if tag.opens() {
                ""
            } else {
                "."
            };
            found.push(format!("{kind}{}", tag.name()));
            text = &text[length..];
        }
        found
    }

    #[test]
    fn tags_have_names_and_kinds() {
        let text = "<?xml version='1.0'?><stream:stream from=\"a>b\" id='1'> <stream:features><starttls xmlns='x'>\
                    <required/></starttls><m:mechanism>SCRAM-SHA-1</m:mechanism></stream:features >";
        let want = [
            ".?xml",
            "stream",
            "features",
            "starttls",
            ".required",
            "/starttls",
            "mechanism",
            "/mechanism",
            "/features",
        ];
        assert_eq!(tags(text), want);
    }

    #[test]
    fn what_is_no_stream_is_seen_as_such() {
        for text in ["220 mail ESMTP!", "\u{15}\u{3}", "<!DOCTYPE html>", "<>", "<a<b>"] {
            assert_eq!(first_tag(text.as_bytes(), false), Err(NotXml), "{text}");
        }
        // In whatever pieces it comes.
        assert_eq!(first_tag(b"220 mail ESMTP!<a>", false), Err(NotXml));
        assert_eq!(first_tag(b"Hello, you", true), Ok(None));
        for text in ["", " ", "<a", "<a b='>'"] {
            assert_eq!(first_tag(text.as_bytes(), false), Ok(None), "{text}");
        }
        assert_eq!(escape("o'a&<"), "o&apos;a&amp;&lt;");
    }
}
