//! The shapes that a monitor's URL may have. What all have in common: one scheme, no white space, no control characters
//! (but for the arguments of a command).

use url::Url;

/// How the URLs of a kind are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `scheme://host…`
    Authority,
    /// `scheme:name`, or `scheme://name`, which means the same.
    Name,
    /// `scheme:`, and nothing behind it: the target is in keys.
    Bare,
    /// `scheme:/path arguments`: a command line, kept as it is written.
    Command,
}

/// Why a text is not a URL of its form: a sentence's end, as in "has no host".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotOfForm(pub String);

impl Form {
    /// Parses a whole URL whose scheme is one of the kind's. A URL of [`Form::Name`] becomes one with `//`; one of
    /// [`Form::Command`] is percent-encoded, see [`command`].
    pub fn parse(self, text: &str) -> Result<Url, NotOfForm> {
        let not = |what: &str| Err(NotOfForm(what.to_owned()));
        let (scheme, rest) = text.split_once(':').ok_or_else(|| NotOfForm("has no scheme".to_owned()))?;
        let spaces = self == Self::Command;
        if rest.chars().any(|c| c.is_control() || (c.is_whitespace() && !(spaces && c == ' '))) {
            // The URL standard's parser cuts tabs and line ends away silently.
            return not("has a space or control character in it");
        }
        let whole = match self {
            Self::Authority if !rest.starts_with("//") => return not("has no \"//\" behind the scheme"),
            Self::Authority => text.to_owned(),
            Self::Name => format!("{scheme}://{}", rest.strip_prefix("//").unwrap_or(rest)),
            Self::Bare if !matches!(rest, "" | "//") => return not("ends after the colon"),
            Self::Bare => format!("{scheme}:"),
            Self::Command if !rest.starts_with('/') || rest.starts_with("//") => {
                return not("has no absolute path behind the scheme");
            }
            // A "?" or "#" is an argument's own.
            Self::Command => {
                let encode = |c: char| match c {
                    '%' => "%25".to_owned(),
                    '?' => "%3F".to_owned(),
                    '#' => "%23".to_owned(),
                    '\\' => "%5C".to_owned(),
                    ' ' => "%20".to_owned(),
                    // "/./" and "/../" would be resolved away.
                    '.' => "%2E".to_owned(),
                    c => c.to_string(),
                };
                let encoded: String = rest.chars().map(encode).collect();
                return match Url::parse(&format!("{scheme}:x{encoded}")) {
                    Ok(url) => Ok(url),
                    Err(why) => Err(NotOfForm(format!("is not a URL: {why}"))),
                };
            }
        };
        let url = match Url::parse(&whole) {
            Ok(url) => url,
            Err(why) => return Err(NotOfForm(format!("is not a URL: {why}"))),
        };
        if matches!(self, Self::Authority | Self::Name) && url.host_str().is_none_or(str::is_empty) {
            return not("has no host");
        }
        Ok(url)
    }
}

/// The command line in a URL of [`Form::Command`], as it was written.
#[must_use]
pub fn command(url: &Url) -> Option<String> {
    let encoded = url.path().strip_prefix('x')?.as_bytes();
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_form_takes_its_own() {
        for (form, text, url) in [
            (Form::Authority, "tcp://h:1", "tcp://h:1"),
            (Form::Name, "icmp:h", "icmp://h"),
            (Form::Name, "icmp://h", "icmp://h"),
            (Form::Name, "icmp:[::1]", "icmp://[::1]"),
            (Form::Name, "dns:_dmarc.example.org.", "dns://_dmarc.example.org."),
            (Form::Bare, "heartbeat:", "heartbeat:"),
            (Form::Bare, "group://", "group:"),
        ] {
            assert_eq!(form.parse(text).unwrap().as_str(), url, "{text}");
        }
        for (form, text, what) in [
            (Form::Authority, "tcp:h:1", "has no \"//\" behind the scheme"),
            (Form::Authority, "tcp:///x", "has no host"),
            (Form::Name, "icmp:", "has no host"),
            (Form::Name, "icmp:a b", "has a space or control character in it"),
            (Form::Bare, "group:x", "ends after the colon"),
            (Form::Command, "exec:check", "has no absolute path behind the scheme"),
            (Form::Command, "exec://host/check", "has no absolute path behind the scheme"),
            (Form::Command, "exec:/check\tx", "has a space or control character in it"),
        ] {
            assert_eq!(form.parse(text), Err(NotOfForm(what.to_owned())), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_command_comes_back_as_written(line in "/[ -~é€]{0,40}") {
            prop_assume!(!line.starts_with("//"));
            let url = Form::Command.parse(&format!("exec:{line}")).unwrap();
            prop_assert_eq!(command(&url), Some(line));
        }
    }
}
