//! Kinds for the tests of settings: they read the contract's keys and probe nothing.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::reader::TableReader;
use crate::model::Observation;
use crate::probe::form::Form;
use crate::probe::{Kind, Prepared, Probe, ProbeContext};
use crate::verdict::expectation::Expectations;

pub(super) const KINDS: &[&Kind] = &[&HTTP, &TCP];
pub(super) const LATER: &[&str] = &["dns", "exec", "icmp"];

const HTTP: Kind = Kind {
    name: "http",
    schemes: &["http", "https"],
    form: Form::Authority,
    example_url: "https://example.com/path",
    keys: &[
        "method",
        "headers",
        "body",
        "follow_redirects",
        "max_redirects",
        "redirect_downgrade",
        "ip_version",
        "auth",
        "tls",
        "expect",
    ],
    prepare: |url, reader| {
        let before = reader.findings().count();
        if !url.username().is_empty() || url.password().is_some() {
            reader.error("url", "has a user or password in it", "write auth = { basic = … }".to_owned());
        }
        reader.string("method");
        reader.pairs("headers");
        reader.string("body");
        reader.boolean("follow_redirects");
        reader.integer("max_redirects", 0..=20);
        reader.boolean("redirect_downgrade");
        reader.node("ip_version");
        if let Some(mut auth) = reader.table("auth") {
            if let Some(mut basic) = auth.table("basic") {
                basic.string("username");
                basic.secret("password");
                basic.finish(&|_| None);
            }
            auth.secret("bearer");
            auth.finish(&|_| None);
        }
        if let Some(mut tls) = reader.table("tls") {
            tls.boolean("verify");
            tls.path("client_certificate");
            tls.path("client_key");
            tls.string("min_version");
            tls.finish(&|_| None);
        }
        expect(reader, true);
        prepared(reader, before)
    },
    example: "id = \"a\"\nurl = \"https://example.com/\"",
};

const TCP: Kind = Kind {
    name: "tcp",
    schemes: &["tcp"],
    form: Form::Authority,
    example_url: "tcp://example.com:1234",
    keys: &["exchange", "ip_version", "expect"],
    prepare: |_, reader| {
        let before = reader.findings().count();
        for mut step in reader.tables("exchange").unwrap_or_default() {
            step.string("expect");
            step.string("send");
            step.finish(&|_| None);
        }
        reader.node("ip_version");
        expect(reader, false);
        prepared(reader, before)
    },
    example: "[[monitor]]\nid = \"b\"\nurl = \"tcp://example.com:25\"",
};

fn expect(reader: &mut TableReader<'_>, http: bool) {
    let Some(mut table) = reader.table("expect") else { return };
    let second = std::time::Duration::from_secs(1);
    table.duration("latency_below", second / 1000..=second * 3600);
    table.duration("latency_down_above", second / 1000..=second * 3600);
    if http {
        table.list("status");
        for key in ["body_contains", "body_not_contains", "body_matches", "body_not_matches"] {
            table.string(key);
        }
        table.integer("certificate_days_left", 0..=36_500);
        for mut header in table.tables("headers").unwrap_or_default() {
            ["name", "equals", "contains", "matches"].into_iter().for_each(|key| drop(header.string(key)));
            header.finish(&|_| None);
        }
        for mut json in table.tables("json").unwrap_or_default() {
            for key in ["path", "equals", "not_equals", "above", "below", "matches", "exists"] {
                json.node(key);
            }
            json.finish(&|_| None);
        }
    }
    table.finish(&|_| None);
}

fn prepared(reader: &TableReader<'_>, before: usize) -> Option<Prepared> {
    let good = reader.findings().count() == before;
    good.then(|| Prepared { probe: Arc::new(Idle), expect: Arc::new(Expectations::default()) })
}

struct Idle;

impl Probe for Idle {
    fn probe<'a>(&'a self, context: &'a ProbeContext<'a>) -> BoxFuture<'a, Observation> {
        Box::pin(async { Observation::new(context.started_at) })
    }
}
