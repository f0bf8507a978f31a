//! Reading: what is taken, and what each mistake is told.

use super::super::testing;
use super::*;

fn findings(toml: &str) -> String {
    let read = testing::prepare(&KIND, toml);
    assert!(read.value.is_some() || !read.findings.is_empty(), "nothing, and no reason: {toml}");
    read.findings.join("\n")
}

#[test]
fn good_monitors_are_taken() {
    for keys in [
        "url = \"dns:example.com\"",
        "url = \"dns://example.com.\"",
        "url = \"dns:_sip._tcp.example.com\"\nrecord = \"SRV\"",
        "url = \"dns:.\"\nrecord = \"NS\"",
        "url = \"dns:*.example.com\"",
        "url = \"dns:bücher.example\"",
        "url = \"dns:192.0.2.1\"\nrecord = \"PTR\"",
        "url = \"dns:[2001:db8::1]\"\nrecord = \"PTR\"",
        "url = \"dns:1.2.0.192.in-addr.arpa\"\nrecord = \"PTR\"",
        "url = \"dns:h\"\nresolver = \"192.0.2.53\"",
        "url = \"dns:h\"\nresolver = \"192.0.2.53:5353\"",
        "url = \"dns:h\"\nresolver = \"2001:db8::53\"",
        "url = \"dns:h\"\nresolver = \"[2001:db8::53]:5353\"\nip_version = 6",
        "url = \"dns:h\"\nresolver = \"udp://ns.example.com\"\nip_version = 4",
        "url = \"dns:h\"\nresolver = \"tcp://ns.example.com:53\"",
        "url = \"dns:h\"\nresolver = \"tls://192.0.2.53\"\ntls = { verify = false }\nexpect = { certificate_days_left = 7 }",
        "url = \"dns:h\"\nexpect = { rcode = \"nxdomain\" }",
        "url = \"dns:h\"\nexpect = { rcode = [\"NOERROR\", \"REFUSED\"], answers = [] }",
        "url = \"dns:h\"\nexpect = { answers = [\"192.0.2.1\", { matches = \"^10[.]\" }], answers_exact = true }",
        "url = \"dns:h\"\nrecord = \"SOA\"\nexpect = { serial_at_least = 4294967295 }",
    ] {
        assert_eq!(findings(keys), "", "{keys}");
    }
}

#[test]
fn mistakes_are_named() {
    for (keys, what) in [
        ("url = \"dns:example.com:53\"", "resolver = \"192.0.2.53:5353\""),
        ("url = \"dns:example.com?type=A\"", "a name and nothing else"),
        ("url = \"dns://192.0.2.1/example.com\"", "a name and nothing else"),
        ("url = \"dns:192.0.2.1\"", "add record = \"PTR\""),
        ("url = \"dns:a..b\"", "not a name of the DNS"),
        ("url = \"dns:h\"\nrecord = \"ANY\"", "must be one of A, AAAA"),
        ("url = \"dns:h\"\nresolver = \"https://dns.example/dns-query\"", "cannot ask by \"https\""),
        ("url = \"dns:h\"\nresolver = \"192.0.2.53:0\"", "not a name server"),
        ("url = \"dns:h\"\nresolver = \"u@192.0.2.53\"", "not a name server"),
        ("url = \"dns:h\"\nresolver = \"\"", "not a name server"),
        ("url = \"dns:h\"\nresolver = \"192.0.2.53\"\ntls = { verify = false }", "not asked over TLS"),
        ("url = \"dns:h\"\ntls = { verify = false }", "not asked over TLS"),
        ("url = \"dns:h\"\nip_version = 4", "our own name servers"),
        ("url = \"dns:h\"\nresolver = \"192.0.2.53\"\nip_version = 6", "is an IPv4 address"),
        ("url = \"dns:h\"\nexpect = { rcode = \"NX\" }", "not a response code"),
        ("url = \"dns:h\"\nexpect = { rcode = [] }", "empty"),
        ("url = \"dns:h\"\nexpect = { answers = [\"::1\"] }", "must be an IPv4 address"),
        ("url = \"dns:h\"\nexpect = { answers = [{ like = \"x\" }] }", "unknown key"),
        ("url = \"dns:h\"\nexpect = { answers = [{ contains = \"x\", matches = \"x\" }] }", "not one test"),
        ("url = \"dns:h\"\nexpect = { answers = [{ matches = \"(\" }] }", "not a regular expression"),
        ("url = \"dns:h\"\nexpect = { answers_exact = true }", "no answers beside it"),
        ("url = \"dns:h\"\nexpect = { serial_at_least = 1 }", "add record = \"SOA\""),
        ("url = \"dns:h\"\nexpect = { rcode = \"NXDOMAIN\", answers = [\"192.0.2.1\"] }", "NOERROR only"),
        ("url = \"dns:h\"\nexpect = { status = [200] }", "cannot meet this expectation"),
        ("url = \"dns:h\"\nexpect = { certificate_days_left = 7 }", "cannot meet this expectation"),
        ("url = \"dns:h\"\nexpect = 1", "must be a table"),
        ("url = \"dns:h\"\nresolvers = \"192.0.2.53\"", "did you mean \"resolver\"?"),
    ] {
        let found = findings(keys);
        assert!(found.contains(what), "{keys}: {found}");
    }
}
