//! References to secrets and to files: what they stand for counts, and is never shown.

use super::{errors, monitor, one, read, read_by};
use crate::settings::diagnostic::SourceText;

#[test]
fn references_are_expanded_and_never_shown() {
    let text = "[[monitor]]\nid='a'\nurl='https://${HOST}/'\nbody='${TOKEN} $${X}'\nauth={bearer='canary-bearer'}\nheaders={A='${TOKEN}'}\n";
    let found = one(text);
    assert_eq!(&*found.url, "https://${HOST}/");
    let secrets: Vec<&str> = found.secrets.iter().map(|secret| secret.expose()).collect();
    assert_eq!(secrets, ["canary-host.example", "canary-bearer", "canary-token"]);
    assert_eq!(found.spec()["body"], "${TOKEN} $${X}");
    let settings = read(text).unwrap();
    assert!(!format!("{settings:#?} {found:?}").contains("canary"));
    assert_ne!(one(&text.replace("canary-bearer", "canary-other")).fingerprint, found.fingerprint);
    assert_eq!(one(&format!("# moved\n{text}")).fingerprint, found.fingerprint);
}

#[test]
fn no_message_shows_a_secret() {
    for text in [
        monitor("auth = { basic = { username = \"u\", password = \"canary\", x = 1 } }"),
        monitor("auth = { bearer = 5, y = \"canary\" }"),
        monitor("auth = { bearer = [\"canary\"] }"),
        monitor("auth = { baerer = \"canary\" }"),
        monitor("auth = \"canary\""),
        monitor("headers = { Authorization = \"canary\", X = 5 }"),
        monitor("headers = { Authorization = \"${NONE}canary\" }"),
        monitor("interval = \"${TOKEN}\""),
        monitor("body = \"${canary-}\""),
        monitor("headers = { Authorization = \"canary\\n\" }"),
        monitor("headers = { \"Bad Name\" = \"canary\", Cookie = \"canary\" }"),
        monitor("auth = { bearer = \"canary\\n\" }"),
        monitor("auth = { bearer = \"canary\", basic = { username = \"canary\" } }"),
        monitor("auth = { basic = { username = 5, password = \"${TOKEN}\" } }"),
        monitor("headers = { Authorization = \"${TOKEN}\" }\nmethod = \"${TOKEN}\"\nip_version = \"${TOKEN}\""),
        monitor("tls = { client_certificate = \"${TOKEN}\", client_key = \"${TOKEN}\", min_version = \"${TOKEN}\" }"),
        monitor("interval = \"canary\nauth = 5"),
        "[[monitor]]\nid = \"a\"\nurl = \"https://u:canary@h.example/\"\n".to_owned(),
        "[[monitor]]\nid = \"a\"\nurl = \"htps://u:canary@h.example/\"\n".to_owned(),
        "[[monitor]]\nid = \"a\"\nurl = \"${HOST}\"\n".to_owned(),
        "[daemon]\nlog_level = \"${TOKEN}\"\nregion = \"${TOKEN} \"\n".to_owned(),
        "[database]\nurl = \"mysql://u:canary@h/d\"\n".to_owned(),
        "[database]\nurl = \"postgres://u:canary@h:port/d\" x\n".to_owned(),
        "[database]\nurl = postgres://u:canary@h/d\n".to_owned(),
        "[database]\nurl = { file = \"${TOKEN}\" }\n".to_owned(),
    ] {
        let sources = [SourceText::new("c.toml", text.as_str())];
        let real = read_by(crate::probe::kinds::KINDS, &sources).unwrap_err().to_string();
        let found = errors(&text).join("\n") + &real;
        // The one message that quotes what it cannot parse as a duration quotes what is no secret's place.
        let allowed = text.contains("interval = \"canary");
        assert!(!found.is_empty() && (allowed || !found.contains("canary")), "{text}\n{found}");
    }
}

#[test]
fn a_changed_file_behind_a_path_is_a_changed_monitor() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("client.pem");
    let text = monitor(&format!("tls = {{ client_certificate = {:?} }}", path.display().to_string()));
    std::fs::write(&path, "one").unwrap();
    let before = one(&text).fingerprint;
    assert_eq!(one(&text).fingerprint, before);
    std::fs::write(&path, "three").unwrap();
    assert_ne!(one(&text).fingerprint, before);
}
