//! The closed list of failure names (contract, section 2).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::state::Verdict;

/// Who owns a failure. Only a failure of the target may open an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The monitored service or something on the way that answers for it.
    Target,
    /// Our own egress policy.
    Policy,
    /// Our host, our resolver, our permissions, our bug.
    Observer,
}

/// Where a failure happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Layer {
    Dns,
    Tcp,
    Tls,
    Http,
    Expectation,
    Other,
    Policy,
    Observer,
}

macro_rules! failures {
    ($($variant:ident $name:literal $layer:ident $verdict:ident,)*) => {
        /// Why a check did not pass. Stored by name in `monitor_checks.error_type`; the names are public and fixed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[allow(missing_docs)]
        pub enum Failure {
            $(#[serde(rename = $name)] $variant,)*
        }

        impl Failure {
            /// Every failure, in the contract's order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The public name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The layer it belongs to.
            #[must_use]
            pub const fn layer(self) -> Layer {
                match self { $(Self::$variant => Layer::$layer,)* }
            }

            /// The verdict it leads to, except that `latency_exceeded` is judged by which bound was crossed.
            #[must_use]
            pub const fn verdict(self) -> Verdict {
                match self { $(Self::$variant => Verdict::$verdict,)* }
            }
        }
    };
}

failures! {
    DnsNxdomain "dns_nxdomain" Dns Down,
    DnsNoRecords "dns_no_records" Dns Down,
    DnsServfail "dns_servfail" Dns Down,
    DnsRefused "dns_refused" Dns Down,
    DnsTimeout "dns_timeout" Dns Down,
    DnsError "dns_error" Dns Down,
    DnsAnswerMismatch "dns_answer_mismatch" Dns Down,
    ConnectRefused "connect_refused" Tcp Down,
    ConnectTimeout "connect_timeout" Tcp Down,
    ConnectionReset "connection_reset" Tcp Down,
    HostUnreachable "host_unreachable" Tcp Down,
    NetworkUnreachable "network_unreachable" Tcp Down,
    TlsHandshake "tls_handshake" Tls Down,
    TlsTimeout "tls_timeout" Tls Down,
    TlsVersion "tls_version" Tls Down,
    CertExpired "cert_expired" Tls Down,
    CertNotYetValid "cert_not_yet_valid" Tls Down,
    CertUntrusted "cert_untrusted" Tls Down,
    CertHostnameMismatch "cert_hostname_mismatch" Tls Down,
    CertRevoked "cert_revoked" Tls Down,
    CertInvalid "cert_invalid" Tls Down,
    CertExpiring "cert_expiring" Tls Degraded,
    HttpProtocol "http_protocol" Http Down,
    ConnectionClosed "connection_closed" Http Down,
    ResponseTimeout "response_timeout" Http Down,
    BodyTimeout "body_timeout" Http Down,
    BodyTruncated "body_truncated" Http Down,
    BodyTooLarge "body_too_large" Http Down,
    RedirectLoop "redirect_loop" Http Down,
    RedirectLimit "redirect_limit" Http Down,
    RedirectBlocked "redirect_blocked" Http Down,
    StatusUnexpected "status_unexpected" Http Down,
    HeaderMismatch "header_mismatch" Expectation Down,
    BodyMismatch "body_mismatch" Expectation Down,
    BodyForbidden "body_forbidden" Expectation Down,
    JsonMismatch "json_mismatch" Expectation Down,
    ExchangeMismatch "exchange_mismatch" Expectation Down,
    LatencyExceeded "latency_exceeded" Expectation Degraded,
    IcmpTimeout "icmp_timeout" Other Down,
    PacketLoss "packet_loss" Other Down,
    GrpcNotServing "grpc_not_serving" Other Down,
    QueryFailed "query_failed" Other Down,
    DomainExpired "domain_expired" Other Down,
    HeartbeatMissed "heartbeat_missed" Other Down,
    HeartbeatFailed "heartbeat_failed" Other Down,
    HeartbeatOverran "heartbeat_overran" Other Down,
    CommandFailed "command_failed" Other Down,
    MemberDown "member_down" Other Down,
    DomainExpiring "domain_expiring" Other Degraded,
    EgressBlocked "egress_blocked" Policy Down,
    PermissionDenied "permission_denied" Observer Unknown,
    ResourceExhausted "resource_exhausted" Observer Unknown,
    ResolverUnavailable "resolver_unavailable" Observer Unknown,
    ObserverOffline "observer_offline" Observer Unknown,
    Internal "internal" Observer Unknown,
}

impl Failure {
    /// Who owns it.
    #[must_use]
    pub const fn owner(self) -> Owner {
        match self.layer() {
            Layer::Observer => Owner::Observer,
            Layer::Policy => Owner::Policy,
            _ => Owner::Target,
        }
    }

    /// The failure of this name, if there is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|f| f.name() == name)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found_again() {
        for failure in Failure::ALL {
            assert_eq!(Failure::from_name(failure.name()), Some(*failure));
        }
        assert_eq!(Failure::ALL.len(), 55);
    }

    #[test]
    fn what_the_observer_owns_is_unknown() {
        for failure in Failure::ALL {
            let unknown = failure.verdict() == Verdict::Unknown;
            assert_eq!(failure.owner() == Owner::Observer, unknown, "{failure}");
        }
    }
}
