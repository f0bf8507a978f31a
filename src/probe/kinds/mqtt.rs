//! `mqtt` and `mqtts`: MQTT 3.1.1, which brokers of version 5 speak as well: connect, log in, ping, disconnect.
//! Section numbers are those of the OASIS standard of version 3.1.1.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use url::Url;

use crate::model::{Failure, Fault, Observation};
use crate::probe::authority::Shape;
use crate::probe::form::Form;
use crate::probe::login::{Login, Secure};
use crate::probe::net::Stream;
use crate::probe::talk::{self, End, Talk};
use crate::probe::{Kind, Prepared, Probe, ProbeContext};
use crate::settings::reader::TableReader;
use crate::verdict::expectation::{Accepts, Expectations};

/// The row of the registration table.
pub(super) const KIND: Kind = Kind {
    name: "mqtt",
    schemes: &["mqtt", "mqtts"],
    form: Form::Authority,
    example_url: "mqtt://user@example.com",
    keys: &["client_id", "ip_version", "auth", "tls", "expect"],
    prepare,
    example: include_str!("mqtt/example.toml"),
};

/// All that is received; a broker sends 6 bytes to who subscribes to nothing.
const MAX_RECEIVED_BYTES: usize = 16 * 1024;
/// 3.1.3.1: every broker takes up to 23 bytes of letters and digits; many take more.
const MAX_CLIENT_ID_BYTES: usize = 128;
/// Packet types, in the upper half of the first byte; the lower half is 0.
const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PINGREQ: u8 = 0xc0;
const PINGRESP: u8 = 0xd0;
const DISCONNECT: u8 = 0xe0;
/// Protocol name, level 4 (3.1.2).
const PROTOCOL: &[u8] = b"\0\x04MQTT\x04";
const CLEAN_SESSION: u8 = 0x02;
const HAS_PASSWORD: u8 = 0x40;
const HAS_USER: u8 = 0x80;
/// Seconds; a check is over long before, or has failed.
const KEEP_ALIVE: u16 = 3600;

struct MqttProbe {
    login: Login,
    client_id: Option<String>,
}

fn prepare(url: &Url, reader: &mut TableReader<'_>) -> Option<Prepared> {
    let before = reader.findings().count();
    let secure = url.scheme() == "mqtts";
    let port = if secure { 8883 } else { 1883 };
    let shape = Shape::bare(Some(port), "mqtt://user@broker.example");
    let login = Login::read(url, reader, shape, Secure::Scheme("mqtts"));
    let client_id = reader.string("client_id");
    if client_id
        .as_ref()
        .is_some_and(|id| id.is_empty() || id.len() > MAX_CLIENT_ID_BYTES || id.chars().any(char::is_control))
    {
        let allowed = format!("must be 1 to {MAX_CLIENT_ID_BYTES} bytes, none of them a control character");
        reader.error("client_id", "is not an id of a client", allowed);
    }
    if login.as_ref().is_some_and(|login| login.password.is_some() && login.username.is_none()) {
        // 3.1.2.9.
        reader.error("auth", "MQTT 3.1.1 has no password without a user", "name the user".to_owned());
    }
    let expect = Expectations::read(reader, Accepts { certificate: secure, ..Accepts::default() });
    let login = login.filter(|_| reader.findings().count() == before)?;
    Some(Prepared { probe: Arc::new(MqttProbe { login, client_id }), expect: Arc::new(expect) })
}

impl Probe for MqttProbe {
    fn probe<'a>(&'a self, context: &'a ProbeContext<'a>) -> BoxFuture<'a, Observation> {
        Box::pin(async move {
            let start = Instant::now();
            let mut seen = Observation::new(context.started_at);
            let result = self.run(context, &mut seen).await;
            super::close_timings(&mut seen, start);
            match result {
                Err(fault) => seen.fault = Some(fault),
                // 3.14.4: the server closes then, if the client has not.
                Ok(stream) => talk::part(stream, &[DISCONNECT, 0], context.deadline).await,
            }
            seen
        })
    }
}

impl MqttProbe {
    async fn run(&self, context: &ProbeContext<'_>, seen: &mut Observation) -> Result<Stream, Fault> {
        let stream = self.login.connect(context, seen).await?;
        let hello = self.hello()?;
        let mut talk = Talk::new(stream, context.deadline, &mut seen.timings, MAX_RECEIVED_BYTES);
        let awaited = "its answer to the login (CONNACK)";
        talk.send(&hello).await.map_err(|end| self.end(end, awaited))?;
        let answer = self.packet(&mut talk, CONNACK, 2, awaited).await?;
        self.check(answer.get(1).copied())?;
        let awaited = "its answer to the ping (PINGRESP)";
        talk.send(&[PINGREQ, 0]).await.map_err(|end| self.end(end, awaited))?;
        self.packet(&mut talk, PINGRESP, 0, awaited).await?;
        Ok(talk.into_stream())
    }

    /// CONNECT (3.1): a session that leaves nothing behind, and no will.
    fn hello(&self) -> Result<Vec<u8>, Fault> {
        let client_id = match &self.client_id {
            Some(id) => id.clone(),
            None => random_id()?,
        };
        let mut flags = CLEAN_SESSION;
        let mut body = Vec::from(PROTOCOL);
        let mut payload = Vec::new();
        put(&mut payload, &client_id);
        if let Some(username) = &self.login.username {
            flags |= HAS_USER;
            put(&mut payload, username);
        }
        if let Some(password) = &self.login.password {
            flags |= HAS_PASSWORD;
            put(&mut payload, password.expose());
        }
        body.push(flags);
        body.extend(KEEP_ALIVE.to_be_bytes());
        body.extend(payload);
        let mut packet = vec![CONNECT];
        put_length(&mut packet, body.len());
        packet.extend(body);
        Ok(packet)
    }

    /// The content of the next packet, which must be this one.
    async fn packet(&self, talk: &mut Talk<'_>, kind: u8, length: u8, awaited: &str) -> Result<Vec<u8>, Fault> {
        let head = talk.exact(2).await.map_err(|end| self.end_with(end, talk.unread(), awaited))?;
        if head != [kind, length] {
            return Err(self.login.foreign("sent what MQTT has no place for here: is it a broker of MQTT?"));
        }
        talk.exact(usize::from(length)).await.map_err(|end| self.end(end, awaited))
    }

    fn end(&self, end: End, awaited: &str) -> Fault {
        end.fault(&self.login.authority, awaited)
    }

    /// A single byte may already tell that this is no broker.
    fn end_with(&self, end: End, unread: &[u8], awaited: &str) -> Fault {
        match (&end, unread.first()) {
            (End::Closed | End::Deadline, Some(first)) if *first != CONNACK && *first != PINGRESP => {
                self.login.foreign("sent a byte that no packet of MQTT begins with here")
            }
            _ => self.end(end, awaited),
        }
    }

    /// The return codes of CONNACK (3.2.2.3).
    fn check(&self, code: Option<u8>) -> Result<(), Fault> {
        let what = match code {
            Some(0) => return Ok(()),
            Some(1) => "does not speak MQTT 3.1.1 (CONNACK 1)".to_owned(),
            Some(2) => "refused the client id (CONNACK 2): set client_id".to_owned(),
            Some(3) => "says that its service is unavailable (CONNACK 3)".to_owned(),
            Some(4) => "refused user or password (CONNACK 4): see auth".to_owned(),
            Some(5) => match (&self.login.username, &self.login.password) {
                (None, _) => "wants a user and a password (CONNACK 5, not authorised): see auth".to_owned(),
                _ => "does not let this user connect (CONNACK 5, not authorised): see auth".to_owned(),
            },
            Some(other) => format!("refused the login with the unknown code {other} (CONNACK)"),
            None => return Err(Fault::new(Failure::Internal, "CONNACK without a code")),
        };
        Err(self.login.refused(&what))
    }
}

/// An id that no other client has: a broker cuts off the older of two.
fn random_id() -> Result<String, Fault> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)
        .map_err(|_| Fault::new(Failure::ResourceExhausted, "the system gave no random bytes"))?;
    Ok(format!("lamp{:016x}", u64::from_be_bytes(bytes)))
}

/// A text behind its length; both are bounded when they are read.
fn put(into: &mut Vec<u8>, text: &str) {
    into.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    into.extend_from_slice(text.as_bytes());
}

/// 2.2.3: seven bits a byte, the low ones first.
fn put_length(into: &mut Vec<u8>, mut length: usize) {
    loop {
        let low = u8::try_from(length & 0x7f).unwrap_or_default();
        length >>= 7;
        into.push(if length > 0 { low | 0x80 } else { low });
        if length == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn wrong_keys_are_named() {
        for (toml, what) in [
            ("url = \"mqtt://h/topic\"", "ends after the port"),
            ("url = \"mqtt://u:hunter2@h\"", "has no password"),
            ("url = \"mqtt://h\"\nauth = { basic = { password = \"hunter2\" } }", "no password without a user"),
            ("url = \"mqtt://h\"\nclient_id = \"\"", "not an id"),
            ("url = \"mqtt://h\"\ntls = { verify = false }", "mqtts://"),
        ] {
            let found = testing::prepare(&KIND, toml).findings.join("\n");
            assert!(found.contains(what) && !found.contains("hunter2"), "{toml}: {found}");
        }
    }

    #[test]
    fn lengths_have_seven_bits_a_byte() {
        for (length, wanted) in
            [(0, &[0][..]), (127, &[0x7f]), (128, &[0x80, 1]), (16_383, &[0xff, 0x7f]), (16_384, &[0x80, 0x80, 1])]
        {
            let mut bytes = Vec::new();
            put_length(&mut bytes, length);
            assert_eq!(bytes, wanted, "{length}");
        }
    }
}
