//! Identifiers.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! uuid_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl From<Uuid> for $name {
            fn from(value: Uuid) -> Self {
                Self(value)
            }
        }
    };
}

uuid_newtype!(
    /// `monitors.id`. History hangs on it; it never changes for a monitor.
    MonitorId
);
uuid_newtype!(
    /// `users.id`.
    UserId
);
uuid_newtype!(
    /// `maintenances.id`. Spans and incidents name it, also when the definition is gone.
    MaintenanceId
);
uuid_newtype!(
    /// Names one batch of records, so that a `COMMIT` whose answer was lost can be repeated without doubling (`recorded_batches.id`).
    BatchId
);
uuid_newtype!(
    /// Names an incident before the database has given it a number (`incidents.uid`), so that repeats find it.
    IncidentUid
);

impl MonitorId {
    /// Namespace of the version-5 uuids of file monitors. Arbitrary, and fixed for ever: history hangs on it.
    const NAMESPACE: Uuid = Uuid::from_u128(0x9d6f_1c7e_4b52_4e0a_8c61_5f2d_a7b3_90c4);

    /// The id that a file monitor gets at its first creation: version 5 of its key.
    #[must_use]
    pub fn of_key(key: &MonitorKey) -> Self {
        Self(Uuid::new_v5(&Self::NAMESPACE, key.as_str().as_bytes()))
    }

    /// A stable hash for phases. Uuids of version 4 and 5 are uniform, so folding is enough.
    #[must_use]
    pub fn phase_hash(self) -> u64 {
        let (high, low) = self.0.as_u64_pair();
        // Version and variant bits are constant; the multiply spreads what is left (splitmix64's finalizer).
        let mut x = high ^ low.rotate_left(32);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

impl MaintenanceId {
    /// Namespace of the version-5 uuids of the file's maintenances. Arbitrary, and fixed for ever, as that of monitors.
    const NAMESPACE: Uuid = Uuid::from_u128(0x3f0e_5a92_71c8_4d6b_b0d4_8e19_6c2f_a57d);

    /// The id of a maintenance of the file: version 5 of its key.
    #[must_use]
    pub fn of_key(key: &MonitorKey) -> Self {
        Self(Uuid::new_v5(&Self::NAMESPACE, key.as_str().as_bytes()))
    }
}

/// The user that owns what has no owner. The same value stands in `migrations/`.
pub const SYSTEM_USER: UserId = UserId(Uuid::from_u128(0x0000_0000_0000_4000_8000_0000_0000_0001));

/// A monitor's `id` in the configuration file: `[a-z0-9][a-z0-9._-]{0,63}`. Clones share the text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MonitorKey(Arc<str>);

impl MonitorKey {
    /// What a key may be, for error messages.
    pub const ALLOWED: &'static str = "1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit";

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MonitorKey {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = text.as_bytes();
        let inner = |b: &u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
        let first = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        if bytes.len() <= 64 && bytes.first().is_some_and(first) && bytes.iter().all(inner) {
            Ok(Self(text.into()))
        } else {
            Err(Self::ALLOWED)
        }
    }
}

impl TryFrom<String> for MonitorKey {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<MonitorKey> for String {
    fn from(key: MonitorKey) -> Self {
        key.as_str().to_owned()
    }
}

impl fmt::Display for MonitorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_checked() {
        for good in ["a", "0", "shop", "a.b-c_d", &"x".repeat(64)] {
            assert!(good.parse::<MonitorKey>().is_ok(), "{good}");
        }
        for bad in ["", "A", "-a", ".a", "a b", "ä", "a/b", &"x".repeat(65)] {
            assert!(bad.parse::<MonitorKey>().is_err(), "{bad}");
        }
    }

    #[test]
    fn file_ids_are_stable() {
        let id = MonitorId::of_key(&"shop".parse().unwrap());
        assert_eq!(id, MonitorId::of_key(&"shop".parse().unwrap()));
        assert_eq!(id.0.get_version_num(), 5);
    }
}
