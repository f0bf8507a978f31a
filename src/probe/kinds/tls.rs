//! `tls://host:port`: a TLS handshake, and if wanted a short exchange under it.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use url::Url;

use crate::model::{Fault, Observation};
use crate::probe::authority::{Authority, Shape};
use crate::probe::exchange::{self, Script};
use crate::probe::form::Form;
use crate::probe::net::{IpVersion, Profile, TlsOptions};
use crate::probe::{Kind, Prepared, Probe, ProbeContext, talk};
use crate::settings::reader::TableReader;
use crate::verdict::expectation::{Accepts, Expectations};

/// The row of the registration table.
pub(super) const KIND: Kind = Kind {
    name: "tls",
    schemes: &["tls"],
    form: Form::Authority,
    example_url: "tls://example.com:993",
    keys: &["ip_version", "tls", "exchange", "expect"],
    prepare,
    example: include_str!("tls/example.toml"),
};

struct TlsProbe {
    authority: Authority,
    ip_version: IpVersion,
    profile: Profile,
    options: TlsOptions,
    script: Script,
}

fn prepare(url: &Url, reader: &mut TableReader<'_>) -> Option<Prepared> {
    let before = reader.findings().count();
    let authority = Authority::read(url, reader, Shape::bare(None, KIND.example_url));
    let ip_version = super::read_ip_version(reader);
    let options = TlsOptions::read(reader);
    let script = exchange::read(reader, exchange::MAX_SENT_BYTES);
    let expect = Expectations::read(reader, Accepts { certificate: true, ..Accepts::default() });
    let (authority, options) = authority.zip(options).filter(|_| reader.findings().count() == before)?;
    let probe = TlsProbe { authority, ip_version, profile: super::profile_of(reader), options, script };
    Some(Prepared { probe: Arc::new(probe), expect: Arc::new(expect) })
}

impl Probe for TlsProbe {
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

impl TlsProbe {
    async fn run(&self, context: &ProbeContext<'_>, seen: &mut Observation) -> Result<(), Fault> {
        let stream = talk::connect(&self.authority, self.ip_version, self.profile, context, seen).await?;
        exchange::under_tls(stream, &self.authority, &self.options, &self.script, context, seen).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn wrong_keys_are_named() {
        for (key, what) in [
            ("tls = { verfiy = false }", "unknown key"),
            ("tls = true", "found"),
            ("exchange = [{}]", "either expect or send"),
            ("expect = { status = 200 }", "expect.status"),
            ("method = \"GET\"", "unknown key"),
        ] {
            let read = testing::prepare(&KIND, &format!("url = \"tls://h:1\"\n{key}"));
            assert!(read.value.is_none() || key.starts_with("method"), "{key}");
            assert!(read.findings.join("\n").contains(what), "{key}: {:?}", read.findings);
        }
        let read = testing::prepare(&KIND, "url = \"tls://h\"");
        assert!(read.findings.join("\n").contains("no port") && read.value.is_none(), "{:?}", read.findings);
    }
}
