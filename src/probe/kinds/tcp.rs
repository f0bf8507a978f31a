//! `tcp://host:port`: a connection, and if wanted a short exchange on it.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use url::Url;

use crate::model::{Fault, Observation};
use crate::probe::authority::{Authority, Shape};
use crate::probe::exchange::{self, Script};
use crate::probe::form::Form;
use crate::probe::net::{IpVersion, Profile, Stream};
use crate::probe::talk::{self, Talk};
use crate::probe::{Kind, Prepared, Probe, ProbeContext};
use crate::settings::reader::TableReader;
use crate::verdict::expectation::{Accepts, Expectations};

/// The row of the registration table.
pub(super) const KIND: Kind = Kind {
    name: "tcp",
    schemes: &["tcp"],
    form: Form::Authority,
    example_url: "tcp://example.com:1234",
    keys: &["ip_version", "exchange", "expect"],
    prepare,
    example: include_str!("tcp/example.toml"),
};

struct TcpProbe {
    authority: Authority,
    ip_version: IpVersion,
    profile: Profile,
    script: Script,
}

fn prepare(url: &Url, reader: &mut TableReader<'_>) -> Option<Prepared> {
    let before = reader.findings().count();
    let authority = Authority::read(url, reader, Shape::bare(None, "tcp://mail.example:25"));
    let ip_version = super::read_ip_version(reader);
    let script = exchange::read(reader, exchange::MAX_SENT_BYTES);
    let expect = Expectations::read(reader, Accepts::default());
    let authority = authority?;
    if reader.findings().count() > before {
        return None;
    }
    let probe = TcpProbe { authority, ip_version, profile: super::profile_of(reader), script };
    Some(Prepared { probe: Arc::new(probe), expect: Arc::new(expect) })
}

impl Probe for TcpProbe {
    fn probe<'a>(&'a self, context: &'a ProbeContext<'a>) -> BoxFuture<'a, Observation> {
        Box::pin(async move {
            let start = Instant::now();
            let mut seen = Observation::new(context.started_at);
            seen.fault = self.run(context, &mut seen).await.err();
            super::close_timings(&mut seen, start);
            seen
        })
    }
}

impl TcpProbe {
    async fn run(&self, context: &ProbeContext<'_>, seen: &mut Observation) -> Result<(), Fault> {
        let stream = talk::connect(&self.authority, self.ip_version, self.profile, context, seen).await?;
        if self.script.is_empty() {
            return Ok(());
        }
        let (stream, most) = (Stream::Plain(stream), exchange::MAX_RECEIVED_BYTES);
        let mut talk = Talk::new(stream, context.deadline, &mut seen.timings, most);
        self.script.run(&mut talk, &self.authority).await
    }
}

#[cfg(test)]
mod tests {
    use url::Host;

    use super::super::testing;
    use super::*;

    fn findings(toml: &str) -> Vec<String> {
        let read = testing::prepare(&KIND, toml);
        assert!(read.value.is_some() || !read.findings.is_empty(), "nothing, and no reason: {toml}");
        read.findings
    }

    #[test]
    fn a_url_is_a_host_and_a_port() {
        for good in ["tcp://h:1", "tcp://h:1/", "tcp://127.0.0.1:65535", "tcp://[::1]:22", "tcp://EXAMPLE.com:80"] {
            assert_eq!(findings(&format!("url = {good:?}")), [""; 0], "{good}");
        }
        for (bad, what) in [
            ("tcp://h", "no port"),
            ("tcp://h:0", "port 0"),
            ("tcp:h:1", "no host"),
            ("tcp://h:1/path", "ends after the port"),
            ("tcp://h:1?q", "ends after the port"),
            ("tcp://u:hunter2@h:1", "no credentials"),
            ("tcp://a%20b:1", "not a host"),
        ] {
            let found = findings(&format!("url = {bad:?}")).join("\n");
            assert!(found.contains(what), "{bad}: {found}");
            assert!(!found.contains("hunter2"), "{found}");
        }
    }

    #[test]
    fn numbers_that_are_addresses_are_seen_as_such() {
        let host = |url: &str| {
            let url = Url::parse(url).unwrap();
            testing::read(&format!("url = {:?}", url.as_str()), |url, reader| {
                Authority::read(url, reader, Shape::bare(None, "tcp://mail.example:25"))
            })
            .value
            .unwrap()
            .host
        };
        assert_eq!(host("tcp://2130706433:1"), Host::<String>::Ipv4([127, 0, 0, 1].into()));
        assert_eq!(host("tcp://0x7f.1:1"), Host::<String>::Ipv4([127, 0, 0, 1].into()));
    }

    #[test]
    fn wrong_keys_are_named() {
        for (key, what) in [
            ("ip_version = 5", "must be \"any\", 4 or 6"),
            ("method = \"GET\"", "unknown key"),
            ("exchange = [{ expect = \"(\" }]", "not a regular expression"),
            ("exchange = [{ expect = \"\" }]", "empty"),
            ("exchange = [{ expect = \"a\", send = \"b\" }]", "either expect or send"),
            ("exchange = [{}]", "either expect or send"),
            ("exchange = [{ expects = \"a\" }]", "did you mean \"expect\"?"),
            ("exchange = \"^220\"", "must be a list"),
            ("exchange = [\"^220\"]", "must be a table"),
            ("exchange = []", "empty"),
            ("exchange = [{ expect = \"\\\\w{900}{900}\" }]", "too large"),
        ] {
            let found = findings(&format!("url = \"tcp://h:1\"\n{key}")).join("\n");
            assert!(found.contains(what), "{key}: {found}");
        }
    }
}
