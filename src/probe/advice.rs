//! What an operator does next about a failure: the end of the sentence that explains it. Pure.

use crate::model::Failure;

/// What to do about a failure of a check of this kind, in the imperative, without a stop at its end. What a kind means
/// by a name in a way of its own comes before what the name means in general.
#[must_use]
pub fn next_step(failure: Failure, kind: &str) -> &'static str {
    of_kind(failure, kind).unwrap_or_else(|| in_general(failure))
}

fn of_kind(failure: Failure, kind: &str) -> Option<&'static str> {
    use Failure as F;
    Some(match (kind, failure) {
        ("ssh", F::CertUntrusted) => {
            "compare the fingerprint with the host's own, and change host_key only if the key was changed on purpose"
        }
        ("ssh", F::CertInvalid) => "find out who answers in place of the server: it shows a key that it does not hold",
        ("ssh", F::ExchangeMismatch) => "see that the port is that of an SSH server, or correct banner_matches",
        ("dns", F::ConnectRefused) => "start the name server, or correct resolver",
        ("dns", F::DnsTimeout) => "see that the name server runs and that its answers arrive, or correct resolver",
        ("dns", F::DnsRefused) => "let the name server answer this host, or ask one that is responsible (resolver)",
        ("udp", F::ResponseTimeout) => "see that the service runs, and that no firewall drops its datagrams",
        ("ws", F::StatusUnexpected) => "see that the path is that of a WebSocket, and look in the service's log",
        ("ws", F::HeaderMismatch) => "let the server choose that protocol, or correct subprotocol",
        ("grpc", F::BodyTooLarge) => "see that the service answers grpc.health.v1.Health/Check and nothing else",
        ("domain", F::QueryFailed) => "see at the registrar whether it is registered, and whether its registry answers",
        ("exec", F::PermissionDenied) => "let the daemon's user execute the file and enter its folders",
        ("exec", F::Internal) => "correct the path of the command, and see that it starts by hand",
        ("group", F::Internal) => "see why nothing is known about these members",
        _ => return None,
    })
}

const fn in_general(failure: Failure) -> &'static str {
    use Failure as F;
    match failure {
        F::DnsNxdomain => "correct the name, or have it added to its zone",
        F::DnsNoRecords => "add the record to its zone, or set ip_version to what it has",
        F::DnsServfail => {
            "look at its name servers and DNSSEC signatures: `delv` and `dig +trace` show where it breaks"
        }
        F::DnsRefused => "let the name server answer this host, or ask another one (probe.resolvers)",
        F::DnsTimeout => "see whether the name servers of its zone answer: `dig +trace` walks to them",
        F::DnsError => "ask the name server with `dig`, and repair what it answers",
        F::DnsAnswerMismatch => "correct the records, or the expectation if the change was meant",
        F::ConnectRefused => "start the service, or correct the port",
        F::ConnectTimeout => "see that the host runs, and that no firewall on the way drops the packets",
        F::ConnectionReset => "look in the service's log, and at firewalls and load balancers on the way",
        F::HostUnreachable => "see that the host runs and is on its network: `traceroute` shows how far packets come",
        F::NetworkUnreachable => "have the route to its network repaired: `traceroute` shows where it ends",
        F::TlsHandshake => "look at the server's TLS settings: `openssl s_client -connect` shows how it answers",
        F::TlsTimeout => "see whether the server is overloaded, and whether this port speaks TLS at all",
        F::TlsVersion => "switch on TLS 1.2 or 1.3 at the server, or lower tls.min_version",
        F::CertExpired => "renew it, let the server load it, and see why the renewal did not run",
        F::CertNotYetValid => "compare the clocks of this host and of its issuer, or put the earlier certificate back",
        F::CertUntrusted => "let the server present one of an authority that is trusted here, with its whole chain",
        F::CertHostnameMismatch => "get a certificate for that name, or correct the URL",
        F::CertRevoked => "replace the certificate, and find out why it was revoked",
        F::CertInvalid => "have the certificate issued anew without that flaw",
        F::CertExpiring => "renew it before then, and see whether its renewal runs",
        F::HttpProtocol => "look at what the port answers with `curl -v`, and at the proxies in front of it",
        F::ConnectionClosed => "look in the service's log why it hung up",
        F::ResponseTimeout => "see what the service waits for or whether it is overloaded, or raise timeout",
        F::BodyTimeout => "see what delays the rest of the answer, or raise timeout",
        F::BodyTruncated => "look in the logs of the service and of the proxies in front of it why it was cut off",
        F::BodyTooLarge => "check a smaller page, or raise probe.max_body",
        F::RedirectLoop => "correct the redirects at the server",
        F::RedirectLimit => "put the last address into the URL, or raise max_redirects",
        F::RedirectBlocked => "correct the redirect at the server, or put the address that is meant into the URL",
        F::StatusUnexpected => "look in the service's log for this request, or add the status to expect.status",
        F::HeaderMismatch => "correct the header at the server, or the expectation",
        F::BodyMismatch => "look at the page that is served, or correct the expectation",
        F::BodyForbidden => "look on the page for what went wrong, or correct the expectation",
        F::JsonMismatch => "look at what the service says of itself, or correct expect.json",
        F::ExchangeMismatch => {
            "see that the port speaks the protocol of the URL, and compare what it says with what is expected"
        }
        F::LatencyExceeded => "see below which phase takes the time, or raise the bound",
        F::IcmpTimeout => "see that the host runs, and that no firewall drops pings",
        F::PacketLoss => "look for the link that loses them with `mtr`, or raise max_loss",
        F::GrpcNotServing => "look in the service's log why it does not serve",
        F::QueryFailed => "try by hand with the same account, and look in the log of the server",
        F::DomainExpired => "ask its registrar at once whether it can still be restored",
        F::HeartbeatMissed => "see whether the job still runs, and whether its pings get here",
        F::HeartbeatFailed => "look in the log of the job",
        F::HeartbeatOverran => "see where the job hangs, or raise max_run",
        F::CommandFailed => "run the command by hand as the daemon's user, and look at what it reports",
        F::MemberDown => "look at the members that are named",
        F::DomainExpiring => "renew the domain, or see whether its registrar will",
        F::EgressBlocked => "correct the URL, or the rules of [egress] if this host may be reached",
        F::PermissionDenied => {
            "allow what the message names: the daemon's user, its unit, a firewall or a proxy forbids it"
        }
        F::ResourceExhausted => "see what on this host uses it up",
        F::ResolverUnavailable => "repair the name servers in /etc/resolv.conf, or set probe.resolvers",
        F::ObserverOffline => "look at `ip route get`, and at the proxy's log where one is named",
        F::Internal => "repair on this host what the message names, or report it as a bug",
    }
}

#[cfg(test)]
mod tests;
