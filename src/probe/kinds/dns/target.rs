//! The name that is asked for: `dns:name`, or an address, whose name of the reverse tree is asked for.

use std::net::IpAddr;

use hickory_proto::rr::{Name, RecordType};
use url::{Host, Url};

use crate::probe::authority::read_host;
use crate::settings::reader::TableReader;

const EXAMPLE: &str = "dns:example.com";

/// Reads the URL. Names are absolute: no search list is tried.
pub(super) fn read(url: &Url, record: RecordType, reader: &TableReader<'_>) -> Option<Name> {
    let before = reader.findings().count();
    if url.port().is_some() {
        let way_out = "write the server as resolver = \"192.0.2.53:5353\"".to_owned();
        reader.error("url", "a dns URL has no port", way_out);
    }
    let has_path = !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some();
    if has_path || !url.username().is_empty() || url.password().is_some() {
        let way_out = format!("such as {EXAMPLE:?}; the type is record = \"MX\", the server resolver = \"…\"");
        reader.error("url", "a dns URL is a name and nothing else", way_out);
    }
    if url.host_str() == Some(".") {
        return Some(Name::root()).filter(|_| reader.findings().count() == before);
    }
    let name = match read_host(url, reader, EXAMPLE)? {
        Host::Ipv4(ip) => reverse(IpAddr::V4(ip), record, reader),
        Host::Ipv6(ip) => reverse(IpAddr::V6(ip), record, reader),
        Host::Domain(name) => {
            let parsed = Name::from_ascii(&name).ok().filter(|name| name.num_labels() > 0);
            if parsed.is_none() {
                let allowed = "labels of 1 to 63 characters, 253 in all".to_owned();
                reader.error("url", "not a name of the DNS", allowed);
            }
            parsed
        }
    };
    let mut name = name.filter(|_| reader.findings().count() == before)?;
    name.set_fqdn(true);
    Some(name)
}

fn reverse(ip: IpAddr, record: RecordType, reader: &TableReader<'_>) -> Option<Name> {
    if record == RecordType::PTR {
        return Some(Name::from(ip));
    }
    let way_out = "add record = \"PTR\" to ask for its name".to_owned();
    reader.error("url", format!("{ip} is an address, which has no {record} records"), way_out);
    None
}
