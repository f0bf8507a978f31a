//! What each protocol says in plain text before it goes over to TLS. A server that does not offer it, or says something
//! else, is `exchange_mismatch`.

use std::net::{IpAddr, SocketAddr};

use super::xml;
use crate::model::{Failure, Fault};
use crate::probe::authority::Authority;
use crate::probe::talk::{End, Talk};

/// All that is received in plain text, bytes.
pub(super) const MAX_BYTES: usize = 64 * 1024;
/// A line; RFC 5321 allows 512 bytes, and IMAP servers write all they can do into one line.
const MAX_LINE_BYTES: usize = 8 * 1024;
/// Lines of one reply.
const MAX_LINES: usize = 200;
/// Characters of the far side in a message.
const QUOTE_CHARS: usize = 80;

/// Which protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// RFC 3207.
    Smtp,
    /// RFC 9051.
    Imap,
    /// RFC 2595.
    Pop3,
    /// RFC 4217.
    Ftp,
    /// RFC 6120, client to server.
    Xmpp,
}

impl Protocol {
    pub(super) fn of_scheme(scheme: &str) -> Option<Self> {
        Some(match scheme.strip_prefix("starttls+")? {
            "smtp" => Self::Smtp,
            "imap" => Self::Imap,
            "pop3" => Self::Pop3,
            "ftp" => Self::Ftp,
            "xmpp" => Self::Xmpp,
            _ => return None,
        })
    }

    /// The registered port.
    pub(super) const fn port(self) -> u16 {
        match self {
            Self::Smtp => 25,
            Self::Imap => 143,
            Self::Pop3 => 110,
            Self::Ftp => 21,
            Self::Xmpp => 5222,
        }
    }
}

/// One opening.
pub(super) struct Opening<'a, 'b> {
    pub(super) talk: &'a mut Talk<'b>,
    pub(super) place: &'a Authority,
    /// Our end of the connection.
    pub(super) ours: Option<SocketAddr>,
    /// Lines or tags came since we spoke last.
    pub(super) heard: bool,
}

/// A reply of SMTP or FTP.
struct Reply {
    code: u16,
    /// What stands behind the codes.
    lines: Vec<String>,
}

impl Reply {
    fn text(&self) -> String {
        format!("{} {}", self.code, self.lines.last().map_or("", String::as_str))
    }
}

impl Opening<'_, '_> {
    /// Ends when the server has said that it waits for TLS.
    pub(super) async fn run(&mut self, protocol: Protocol) -> Result<(), Fault> {
        match protocol {
            Protocol::Smtp => self.smtp().await,
            Protocol::Imap => self.imap().await,
            Protocol::Pop3 => self.pop3().await,
            Protocol::Ftp => self.ftp().await,
            Protocol::Xmpp => self.xmpp().await,
        }
    }

    async fn smtp(&mut self) -> Result<(), Fault> {
        let greeting = self.reply("a greeting", true).await?;
        self.must(greeting.code == 220, "greets with", &greeting.text())?;
        let hello = format!("EHLO {}\r\n", literal(self.ours));
        self.send(&hello).await?;
        let offer = self.reply("an answer to EHLO", true).await?;
        self.must(offer.code == 250, "answers EHLO with", &offer.text())?;
        // The first line is the server's name.
        let offers = |line: &String| line.split_ascii_whitespace().next().is_some_and(|word| is(word, "STARTTLS"));
        if !offer.lines.iter().skip(1).any(offers) {
            return Err(self.not_offered("STARTTLS", "in its answer to EHLO"));
        }
        self.send("STARTTLS\r\n").await?;
        let go = self.reply("an answer to STARTTLS", true).await?;
        self.must(go.code == 220, "answers STARTTLS with", &go.text())
    }

    async fn ftp(&mut self) -> Result<(), Fault> {
        let mut greeting = self.reply("a greeting", false).await?;
        // RFC 959, 5.4: ready in some minutes.
        while greeting.code == 120 {
            greeting = self.reply("a greeting", false).await?;
        }
        self.must(greeting.code == 220, "greets with", &greeting.text())?;
        self.send("AUTH TLS\r\n").await?;
        let go = self.reply("an answer to AUTH TLS", false).await?;
        match go.code {
            234 => Ok(()),
            500..=599 => Err(self.not_offered("AUTH TLS", &format!("and answers {}", quoted(&go.text())))),
            _ => self.must(false, "answers AUTH TLS with", &go.text()),
        }
    }

    async fn imap(&mut self) -> Result<(), Fault> {
        let greeting = self.line("a greeting").await?;
        let mut words = greeting.split_ascii_whitespace();
        let star = words.next() == Some("*");
        let state = words.next().unwrap_or_default();
        if star && is(state, "PREAUTH") {
            return Err(self.not_offered("STARTTLS", "since it takes us for logged in (PREAUTH)"));
        }
        self.must(star && is(state, "OK"), "greets with", &greeting)?;
        self.send("a1 CAPABILITY\r\n").await?;
        let (mut offered, mut lines) = (false, 0);
        loop {
            let line = self.counted_line("an answer to CAPABILITY", &mut lines).await?;
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("*") if words.next().is_some_and(|word| is(word, "CAPABILITY")) => {
                    offered |= words.any(|word| is(word, "STARTTLS"));
                }
                Some("*") => {}
                Some("a1") => {
                    self.must(words.next().is_some_and(|word| is(word, "OK")), "answers CAPABILITY with", &line)?;
                    break;
                }
                _ => return self.must(false, "answers CAPABILITY with", &line),
            }
        }
        if !offered {
            return Err(self.not_offered("STARTTLS", "among its capabilities"));
        }
        self.send("a2 STARTTLS\r\n").await?;
        loop {
            let line = self.counted_line("an answer to STARTTLS", &mut lines).await?;
            if !line.starts_with("* ") {
                let mut words = line.split_ascii_whitespace();
                let go = words.next() == Some("a2") && words.next().is_some_and(|word| is(word, "OK"));
                return self.must(go, "answers STARTTLS with", &line);
            }
        }
    }

    async fn pop3(&mut self) -> Result<(), Fault> {
        let greeting = self.line("a greeting").await?;
        self.must(is_ok(&greeting), "greets with", &greeting)?;
        self.send("CAPA\r\n").await?;
        let answer = self.line("an answer to CAPA").await?;
        let (mut offered, mut lines) = (false, 0);
        if is_ok(&answer) {
            loop {
                let line = self.counted_line("its capabilities", &mut lines).await?;
                if line == "." {
                    break;
                }
                offered |= line.split_ascii_whitespace().next().is_some_and(|word| is(word, "STLS"));
            }
            if !offered {
                return Err(self.not_offered("STLS", "among its capabilities"));
            }
        } else {
            // A server from before RFC 2449 does not know CAPA, and may know STLS all the same.
            self.must(answer.starts_with("-ERR"), "answers CAPA with", &answer)?;
        }
        self.send("STLS\r\n").await?;
        let go = self.line("an answer to STLS").await?;
        self.must(is_ok(&go), "answers STLS with", &go)
    }

    async fn xmpp(&mut self) -> Result<(), Fault> {
        let to = xml::escape(&self.place.host.to_string());
        let header = format!(
            "<?xml version='1.0'?><stream:stream to='{to}' version='1.0' xml:lang='en' xmlns='jabber:client' \
             xmlns:stream='http://etherx.jabber.org/streams'>"
        );
        self.send(&header).await?;
        let stream = self.tag("a stream").await?;
        self.must(stream.is("stream") && stream.opens(), "answers with", &stream.text)?;
        let features = self.tag("its features").await?;
        self.no_stream_error(&features).await?;
        self.must(features.is("features"), "answers with", &features.text)?;
        let mut offered = false;
        let mut depth = usize::from(features.opens());
        while depth > 0 {
            let tag = self.tag("its features").await?;
            offered |= depth == 1 && tag.is("starttls") && !tag.closes() && tag.text.contains(TLS_NAMESPACE);
            match (tag.opens(), tag.closes()) {
                (true, _) => depth += 1,
                (_, true) => depth -= 1,
                _ => {}
            }
        }
        if !offered {
            return Err(self.not_offered("STARTTLS", "among its stream features"));
        }
        self.send(&format!("<starttls xmlns='{TLS_NAMESPACE}'/>")).await?;
        let go = self.tag("an answer to starttls").await?;
        self.no_stream_error(&go).await?;
        self.must(go.is("proceed") && !go.closes(), "answers starttls with", &go.text)?;
        if go.opens() {
            let end = self.tag("an answer to starttls").await?;
            self.must(end.is("proceed") && end.closes(), "answers starttls with", &end.text)?;
        }
        Ok(())
    }

    /// RFC 6120, 4.9: the condition is the first element inside.
    async fn no_stream_error(&mut self, tag: &xml::Tag) -> Result<(), Fault> {
        if !tag.is("error") {
            return Ok(());
        }
        let condition = if tag.opens() { self.tag("a reason").await.ok() } else { None };
        let what = condition.as_ref().map_or("no condition", xml::Tag::name);
        self.must(false, "ends the stream with the error", what)
    }

    async fn tag(&mut self, awaited: &str) -> Result<xml::Tag, Fault> {
        loop {
            match xml::first_tag(self.talk.unread(), self.heard) {
                Ok(Some((length, tag))) => {
                    self.talk.exact(length).await.map_err(|end| self.ended(end, awaited))?;
                    self.heard = true;
                    if !tag.is_declaration() {
                        return Ok(tag);
                    }
                }
                Ok(None) => self.talk.more().await.map_err(|end| self.ended(end, awaited))?,
                Err(xml::NotXml) => {
                    let text = String::from_utf8_lossy(self.talk.unread()).into_owned();
                    self.must(false, "does not speak XMPP: it says", &text)?;
                }
            }
        }
    }

    /// `strict`: every line begins with the code (RFC 5321, 4.2.1), else only the first and the last (RFC 959, 4.2).
    async fn reply(&mut self, awaited: &str, strict: bool) -> Result<Reply, Fault> {
        let mut reply: Option<Reply> = None;
        let mut lines = 0;
        loop {
            let line = self.counted_line(awaited, &mut lines).await?;
            let parsed = coded(&line);
            let reply = match (&mut reply, parsed) {
                (None, Some((code, _, text))) => {
                    reply.insert(Reply { code, lines: Vec::new() }).lines.push(text.to_owned());
                    reply.as_mut()
                }
                (Some(known), Some((code, _, text))) if known.code == code => {
                    known.lines.push(text.to_owned());
                    reply.as_mut()
                }
                (Some(known), _) if !strict => {
                    known.lines.push(line.clone());
                    continue;
                }
                _ => {
                    self.must(false, "does not speak the protocol: it says", &line)?;
                    None
                }
            };
            let is_last = parsed.is_some_and(|(_, last, _)| last);
            if let Some(reply) = reply.filter(|_| is_last) {
                return Ok(Reply { code: reply.code, lines: std::mem::take(&mut reply.lines) });
            }
        }
    }

    async fn counted_line(&mut self, awaited: &str, lines: &mut usize) -> Result<String, Fault> {
        *lines += 1;
        if *lines > MAX_LINES {
            return Err(End::TooMuch.fault(self.place, awaited));
        }
        self.line(awaited).await
    }

    async fn line(&mut self, awaited: &str) -> Result<String, Fault> {
        let line = self.talk.line(MAX_LINE_BYTES).await.map_err(|end| self.ended(end, awaited))?;
        self.heard = true;
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    async fn send(&mut self, text: &str) -> Result<(), Fault> {
        self.heard = false;
        self.talk.send(text.as_bytes()).await.map_err(|end| match end {
            End::Broken(error) => crate::probe::talk::broken(&error, self.place),
            end => end.fault(self.place, "what would let us say more"),
        })
    }

    /// Bytes that make up nothing are a mismatch, also when they end.
    fn ended(&self, end: End, awaited: &str) -> Fault {
        let unread = self.talk.unread();
        match end {
            End::Closed | End::Deadline if self.heard && unread.is_empty() => {
                mismatch(format!("{} began {awaited}, but did not end it", self.place))
            }
            End::Closed | End::Deadline if !unread.is_empty() => {
                let said = quoted(&String::from_utf8_lossy(unread));
                mismatch(format!("{} said {said}, which is not {awaited}", self.place))
            }
            End::Deadline if awaited == "a greeting" => {
                let text = format!(
                    "{} sent no greeting within the timeout; a server that speaks TLS from the start says nothing: then \
                     use a tls URL",
                    self.place
                );
                Fault::new(Failure::ResponseTimeout, text)
            }
            end => end.fault(self.place, awaited),
        }
    }

    fn must(&self, is_so: bool, does: &str, said: &str) -> Result<(), Fault> {
        if is_so { Ok(()) } else { Err(mismatch(format!("{} {does} {}", self.place, quoted(said)))) }
    }

    fn not_offered(&self, what: &str, place: &str) -> Fault {
        mismatch(format!("{} does not offer {what} {place}", self.place))
    }
}

const TLS_NAMESPACE: &str = "urn:ietf:params:xml:ns:xmpp-tls";

fn mismatch(text: String) -> Fault {
    Fault::new(Failure::ExchangeMismatch, text)
}

fn is(word: &str, keyword: &str) -> bool {
    word.eq_ignore_ascii_case(keyword)
}

fn is_ok(line: &str) -> bool {
    line.strip_prefix("+OK").is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

/// Code, whether the line is the last of its reply, and the rest.
fn coded(line: &str) -> Option<(u16, bool, &str)> {
    let (code, rest) = line.split_at_checked(3)?;
    let code = code.bytes().all(|digit| digit.is_ascii_digit()).then(|| code.parse().ok())??;
    match rest.as_bytes().first() {
        None => Some((code, true, "")),
        Some(b' ') => Some((code, true, rest.get(1..).unwrap_or_default())),
        Some(b'-') => Some((code, false, rest.get(1..).unwrap_or_default())),
        Some(_) => None,
    }
}

/// Who we are to a mail server, as an address (RFC 5321, 4.1.3): a name of ours that it could look up may not exist.
fn literal(ours: Option<SocketAddr>) -> String {
    match ours.map(|ours| ours.ip().to_canonical()) {
        Some(IpAddr::V4(ip)) => format!("[{ip}]"),
        Some(IpAddr::V6(ip)) => format!("[IPv6:{ip}]"),
        None => "localhost".to_owned(),
    }
}

fn quoted(text: &str) -> String {
    let shown: String = text.trim_end().chars().take(QUOTE_CHARS).flat_map(char::escape_debug).collect();
    format!("\"{shown}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_from_lines() {
        for (line, read) in [
            ("220 a b", Some((220, true, "a b"))),
            ("220-a", Some((220, false, "a"))),
            ("250", Some((250, true, ""))),
            ("250 ", Some((250, true, ""))),
            ("22", None),
            ("2x0 a", None),
            ("+20 a", None),
            ("2200", None),
            ("äöü", None),
            ("", None),
        ] {
            assert_eq!(coded(line), read, "{line}");
        }
    }

    #[test]
    fn we_are_an_address() {
        assert_eq!(literal("192.0.2.1:9".parse().ok()), "[192.0.2.1]");
        assert_eq!(literal("[::1]:9".parse().ok()), "[IPv6:::1]");
        assert_eq!(literal("[::ffff:192.0.2.1]:9".parse().ok()), "[192.0.2.1]");
    }
}
