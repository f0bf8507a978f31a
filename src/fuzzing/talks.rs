//! Targets that read what a server says in a protocol with lengths or lines of its own.

use super::wire::{BOTH, Pieces, converse, deadline, heard, place};
use super::{monitor, parts, toml};
use crate::model::Timings;
use crate::probe::exchange::{self, Heard, Line as _, MAX_RECEIVED_BYTES, MAX_SENT_BYTES};
use crate::probe::kinds::mongodb::bson;
use crate::probe::kinds::mysql::packet::{self as mysql, MAX_LOGIN_BYTES};
use crate::probe::kinds::postgres::message as postgres;
use crate::probe::kinds::redis::reply::{self, Bad, Reply};
use crate::probe::kinds::ssh::{host_key, wire as ssh};
use crate::probe::kinds::ws::frames::Socket;
use crate::probe::talk::{End, Talk};

/// Replies, packets and messages of one run that are read.
const MOST: usize = 64;

/// What `read` makes of the bytes, which must not depend on how they arrive.
fn in_any_pieces<T: PartialEq + std::fmt::Debug>(bytes: &[u8], read: impl AsyncFn(Talk<'_>) -> T) -> T {
    // Many small reads are a bound of their own.
    let bytes = bytes.get(..1024).unwrap_or(bytes);
    let [whole, single] = BOTH.map(|pieces| heard(bytes, pieces, async |talk| read(talk).await));
    assert_eq!(whole, single, "in one piece, and byte by byte");
    whole
}

/// Replies of Redis; what was read and is written again is read as the same.
pub fn redis(bytes: &[u8]) {
    let (replies, end) = in_any_pieces(bytes, async |mut talk| {
        let mut replies = Vec::new();
        while replies.len() < MOST {
            match reply::read(&mut talk).await {
                Ok(reply) => replies.push(reply),
                Err(Bad::End(_)) => return (replies, "end"),
                Err(Bad::Foreign) => return (replies, "foreign"),
                Err(Bad::Large) => return (replies, "large"),
            }
        }
        (replies, "many")
    });
    for reply in &replies {
        assert!(depth(reply) <= 4, "{reply:?}");
        let written = resp(reply);
        let again = heard(&written, Pieces::Whole, async |mut talk| {
            let again = reply::read(&mut talk).await.ok();
            (again, talk.unread().len())
        });
        assert_eq!(again.0.as_ref(), Some(reply), "{end}");
        assert_eq!(again.1, 0, "something is left of {}", written.escape_ascii());
    }
}

fn depth(reply: &Reply) -> usize {
    match reply {
        Reply::Array(items) => items.iter().map(depth).max().unwrap_or_default() + usize::from(!items.is_empty()),
        _ => 0,
    }
}

fn resp(reply: &Reply) -> Vec<u8> {
    let line = |sort: &str, text: &[u8]| [sort.as_bytes(), text, b"\r\n"].concat();
    match reply {
        Reply::Simple(text) => line("+", text),
        Reply::Error(text) => line("-", text),
        Reply::Integer(integer) => line(":", integer.to_string().as_bytes()),
        Reply::Bulk(text) => [format!("${}\r\n", text.len()).as_bytes(), text, b"\r\n"].concat(),
        Reply::Null => b"$-1\r\n".to_vec(),
        Reply::Array(items) => {
            let head = format!("*{}\r\n", items.len()).into_bytes();
            items.iter().map(resp).fold(head, |all, item| [all, item].concat())
        }
    }
}

/// Messages of PostgreSQL, and the first field of a row that has any bytes in it.
pub fn postgres(bytes: &[u8]) {
    let shown = |message: &postgres::Message| match message {
        postgres::Message::Authentication(kind, rest) => format!("authentication {kind} {}", rest.escape_ascii()),
        postgres::Message::Error(error) => format!("{error:?}"),
        postgres::Message::Parameter(name, value) => format!("{} {}", name.escape_ascii(), value.escape_ascii()),
        postgres::Message::Ready => "ready".to_owned(),
        postgres::Message::Row(row) => format!("row {} {:?}", row.escape_ascii(), postgres::first_field(row)),
        postgres::Message::CopyIn => "copy".to_owned(),
        postgres::Message::Other => "other".to_owned(),
    };
    in_any_pieces(bytes, async |mut talk| {
        let mut seen = Vec::new();
        while seen.len() < MOST {
            match postgres::read(&mut talk).await {
                Ok(Some(message)) => seen.push(shown(&message)),
                Ok(None) => return (seen, "foreign"),
                Err(End::TooMuch) => return (seen, "large"),
                Err(_) => return (seen, "end"),
            }
        }
        (seen, "many")
    });
    if let Some(Some(field)) = postgres::first_field(bytes) {
        assert!(field.len() + 6 <= bytes.len());
    }
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
    let row = postgres::tagged(b'D', &[&[0, 1], &length[..], bytes].concat());
    let read = heard(&row, Pieces::Whole, async |mut talk| postgres::read(&mut talk).await);
    let Ok(Some(postgres::Message::Row(row))) = read else { return assert!(row.len() > 60 * 1024, "no row") };
    assert_eq!(postgres::first_field(&row), Some(Some(bytes)));
}

/// Packets of MySQL; the first byte says how long a field's length is written.
pub fn mysql(bytes: &[u8]) {
    in_any_pieces(bytes, async |talk| {
        let (mut wire, mut seen) = (mysql::Wire::new(talk), Vec::new());
        while seen.len() < MOST {
            match wire.next(MAX_LOGIN_BYTES).await {
                Ok(Some(packet)) => {
                    assert!(packet.body().len() < MAX_LOGIN_BYTES && packet.tag().is_some());
                    let login = (packet.error(), packet.greeting(), packet.switch());
                    seen.push((login, packet.first_field().map(|field| field.map(<[u8]>::to_vec)), packet.is_end()));
                }
                Ok(None) => return (seen, "foreign"),
                Err(End::TooMuch) => return (seen, "large"),
                Err(_) => return (seen, "end"),
            }
        }
        (seen, "many")
    });
    let Some((form, field)) = bytes.split_first() else { return };
    let length = u32::try_from(field.len()).unwrap_or(u32::MAX).to_le_bytes();
    let written = match (form % 3, field.len()) {
        (0, 0..=0xfa) => vec![length[0]],
        (0 | 1, 0..=0xffff) => vec![0xfc, length[0], length[1]],
        _ => vec![0xfd, length[0], length[1], length[2]],
    };
    let row = [written.as_slice(), field].concat();
    let head = u32::try_from(row.len()).unwrap_or(u32::MAX).to_le_bytes();
    let packet = [&head[..3], &[0], &row].concat();
    heard(&packet, Pieces::Whole, async |talk| {
        let read = mysql::Wire::new(talk).next(MAX_LOGIN_BYTES).await;
        let Ok(Some(packet)) = read else { return assert!(row.len() > MAX_LOGIN_BYTES, "no packet") };
        assert_eq!(packet.first_field(), Some(Some(field)));
    });
}

/// Replies of MongoDB; a text that is written is read.
pub fn bson(bytes: &[u8]) {
    let names: [&[u8]; 4] = [b"ok", b"errmsg", b"payload", b"done"];
    in_any_pieces(bytes, async |mut talk| {
        let mut seen = Vec::new();
        while seen.len() < MOST {
            match bson::read(&mut talk).await {
                Ok(Some(fields)) => seen.push(names.map(|name| {
                    let number = fields.number(name).map(f64::to_bits);
                    (number, fields.text(name), fields.binary(name), fields.is_true(name))
                })),
                Ok(None) => return (seen, "foreign"),
                Err(End::TooMuch) => return (seen, "large"),
                Err(_) => return (seen, "end"),
            }
        }
        (seen, "many")
    });
    let text = String::from_utf8_lossy(bytes);
    let document = bson::Document::new().int("ok", 1).text("errmsg", &text).binary("payload", bytes);
    let fields = heard(&bson::message(document), Pieces::Whole, async |mut talk| bson::read(&mut talk).await);
    let Ok(Some(fields)) = fields else { return assert!(bytes.len() > 8 * 1024, "no reply") };
    assert_eq!(fields.text(b"errmsg").as_deref(), Some(text.as_bytes()));
    assert_eq!(fields.binary(b"payload").as_deref(), Some(bytes));
}

/// Messages over a WebSocket are those that a plain reading of RFC 6455 gives.
pub fn websocket(bytes: &[u8]) {
    let bytes = bytes.get(..1024).unwrap_or(bytes);
    let place = place();
    let (messages, code) = in_any_pieces(bytes, async |talk| {
        let (mut socket, mut messages) = (Socket::new(talk, &place), Vec::new());
        while let Ok(heard) = socket.hear().await {
            assert_eq!(heard, Heard::Anew);
            messages.push(socket.heard().to_vec());
        }
        (messages, socket.into_parts().1)
    });
    let (wanted, closed) = plain_messages(bytes);
    assert_eq!(messages, wanted);
    assert_eq!(code, closed);
}

/// All whole messages up to the end, a close frame, or what RFC 6455 forbids; and the code of the close frame.
fn plain_messages(mut rest: &[u8]) -> (Vec<Vec<u8>>, Option<u16>) {
    let mut messages: Vec<Vec<u8>> = Vec::new();
    let mut message: Option<(u8, Vec<u8>)> = None;
    while let [first, second, after @ ..] = rest {
        let (last, opcode) = (first & 0x80 != 0, first & 0x0f);
        if first & 0x70 != 0 || second & 0x80 != 0 {
            break;
        }
        let (length, after) = match (second, after) {
            (126, [a, b, after @ ..]) => (u64::from(*a) << 8 | u64::from(*b), after),
            (127, after) if after.len() >= 8 => {
                let (length, after) = after.split_at(8);
                (length.iter().fold(0, |all, byte| all << 8 | u64::from(*byte)), after)
            }
            (126 | 127, _) => break,
            (short, after) => (u64::from(*short), after),
        };
        let Some((payload, after)) = usize::try_from(length).ok().and_then(|length| after.split_at_checked(length))
        else {
            break;
        };
        rest = after;
        match (opcode, &mut message) {
            (8..=10, _) if !last || payload.len() > 125 => break,
            (8, _) => return (messages, payload.first_chunk::<2>().map(|code| u16::from_be_bytes(*code))),
            (9 | 10, _) => continue,
            (1 | 2, None) => message = Some((opcode, payload.to_vec())),
            (0, Some((_, begun))) => begun.extend_from_slice(payload),
            _ => break,
        }
        if last && let Some((opcode, whole)) = message.take() {
            if opcode == 1 && std::str::from_utf8(&whole).is_err() {
                break;
            }
            messages.push(whole);
        }
    }
    (messages, None)
}

/// Packets of SSH, the fields in them, and proofs, which nobody gives by chance.
pub fn ssh(bytes: &[u8]) {
    in_any_pieces(bytes, async |mut talk| {
        let mut seen = Vec::new();
        for awaited in [ssh::KEXINIT, ssh::ECDH_REPLY] {
            seen.push(match ssh::receive(&mut talk, awaited).await {
                Ok(payload) => {
                    assert_eq!(payload.first(), Some(&awaited));
                    let mut fields = ssh::Fields(payload.get(17..).unwrap_or_default());
                    let names = fields.names().map(|names| names.join(","));
                    format!("{names:?} {}", payload.escape_ascii())
                }
                Err(ssh::NotRead::Ended(_)) => "end".to_owned(),
                Err(ssh::NotRead::Malformed) => "malformed".to_owned(),
                Err(ssh::NotRead::Goodbye(why)) => why,
            });
        }
        seen
    });
    let payload = [&[ssh::KEXINIT], bytes].concat();
    let back =
        heard(&ssh::packet(&payload), Pieces::Whole, async |mut talk| ssh::receive(&mut talk, ssh::KEXINIT).await.ok());
    assert!(back == Some(payload) || bytes.len() > 32_000, "a packet is not read as it was written");
    let written = ssh::Payload::default().uint32(7).string(bytes).mpint(bytes).0;
    let mut fields = ssh::Fields(&written);
    assert_eq!((fields.uint32(), fields.string()), (Some(7), Some(bytes)));
    assert_eq!(fields.string().map(ssh::stripped), Some(ssh::stripped(bytes)));
    let (blob, signature) = parts(bytes, b'\n');
    for family in host_key::Family::ALL {
        for algorithm in family.algorithms() {
            assert_ne!(host_key::verify(algorithm, blob, b"hash", signature), Some(true));
        }
    }
}

/// `TOML NUL what the server says`: a script says what it holds, in order, and no more when it fails.
pub fn script(bytes: &[u8]) {
    let (config, server) = parts(bytes, 0);
    let Some(table) = std::str::from_utf8(config).ok().and_then(toml) else { return };
    let (script, complaints) = monitor(&table, true, |reader| exchange::read(reader, MAX_SENT_BYTES));
    // "$${" is sent as "${".
    if !complaints.is_empty() || config.windows(2).any(|pair| pair == b"${") {
        return;
    }
    let wanted = sends(&table);
    let place = place();
    for pieces in BOTH {
        let server = server.get(..1024).unwrap_or(server);
        let (result, said) = converse(server, pieces, async |stream| {
            let mut timings = Timings::default();
            let mut talk = Talk::new(stream, deadline(), &mut timings, MAX_RECEIVED_BYTES);
            let result = script.run(&mut talk, &place).await;
            assert!(server.starts_with(talk.heard()), "heard what nobody said");
            result
        });
        match result {
            Ok(()) => assert_eq!(said, wanted, "it did not say everything"),
            Err(fault) => assert!(wanted.starts_with(&said), "{fault:?}"),
        }
    }
}

fn sends(table: &crate::settings::tree::Table) -> Vec<u8> {
    let json = table.to_json(&[]);
    let steps = json.get("exchange").and_then(serde_json::Value::as_array);
    let texts = steps.into_iter().flatten().filter_map(|step| step.get("send")?.as_str());
    texts.collect::<String>().into_bytes()
}
