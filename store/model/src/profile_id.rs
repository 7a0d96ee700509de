//! Names of single profiles: what one series has of one instant.
//!
//! ```text
//! 0d9f7c1e-52a8-4b36-0000-018bcfe56800
//! └─── series ───────┘└─── time ─────┘     64 bits each
//! ```
//!
//! Nothing but labels and times is stored of a push, so a name is made of those: the hash of tenant and labels, and the
//! milliseconds since the epoch. It is the same after a restart and in another store, and it is the same for all types of
//! values that came in one profile. In the shape of a UUID, because clients of Pyroscope take no other.

use std::fmt;
use std::str::FromStr;

use crate::{SeriesKey, UnixMs};

/// The name of a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProfileId {
    series: u64,
    time: UnixMs,
}

/// Why a string names no profile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("profile id {id:?} is not of 32 hexadecimal digits in the form of a UUID")]
pub struct ProfileIdError {
    /// The rejected string, or its beginning.
    pub id: String,
}

impl ProfileId {
    /// The name of what a series has of an instant.
    pub fn new(key: &SeriesKey, time: UnixMs) -> Self {
        Self { series: Self::series_of(key), time }
    }

    /// What its series is known by; see [`Self::series`].
    pub fn series_of(key: &SeriesKey) -> u64 {
        // No text has a byte 0xff, so it ends each of them.
        let labels = key.labels.iter().flat_map(|label| [label.name.as_str(), label.value.as_str()]);
        let texts = std::iter::once(key.tenant.as_str()).chain(labels);
        fnv1a(texts.flat_map(|text| text.bytes().chain([0xff])))
    }

    /// The hash of its series.
    pub fn series(self) -> u64 {
        self.series
    }

    /// Its time.
    pub fn time(self) -> UnixMs {
        self.time
    }
}

/// The 64-bit hash FNV-1a.
fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

impl fmt::Display for ProfileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { series, time } = self;
        let time = time.0 as u64;
        write!(f, "{:08x}-{:04x}-{:04x}", series >> 32, series >> 16 & 0xffff, series & 0xffff)?;
        write!(f, "-{:04x}-{:012x}", time >> 48, time & 0xffff_ffff_ffff)
    }
}

impl FromStr for ProfileId {
    type Err = ProfileIdError;

    fn from_str(id: &str) -> Result<Self, Self::Err> {
        let bad = || ProfileIdError { id: id.chars().take(100).collect() };
        let parts: Vec<&str> = id.split('-').collect();
        let has_lengths = |lengths: &[usize]| parts.iter().map(|part| part.len()).eq(lengths.iter().copied());
        if !(has_lengths(&[8, 4, 4, 4, 12]) || has_lengths(&[32])) {
            return Err(bad());
        }
        let digits = parts.concat();
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(bad());
        }
        let half = |digits: &str| u64::from_str_radix(digits, 16).ok().ok_or_else(bad);
        Ok(Self { series: half(&digits[..16])?, time: UnixMs(half(&digits[16..])? as i64) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LabelSet, ProfileType, Tenant};

    fn key(labels: &[(&str, &str)]) -> SeriesKey {
        SeriesKey {
            labels: LabelSet::from_pairs(labels.iter().copied()),
            profile_type: ProfileType::cpu_time(),
            tenant: Tenant::default(),
        }
    }

    #[test]
    fn the_hash_is_the_published_one() {
        for (text, hash) in
            [("", 0xcbf2_9ce4_8422_2325), ("a", 0xaf63_dc4c_8601_ec8c), ("foobar", 0x8594_4171_f739_67e8)]
        {
            assert_eq!(fnv1a(text.bytes()), hash, "{text}");
        }
    }

    #[test]
    fn ids_are_of_the_series_and_the_time_alone() {
        let api = key(&[("service_name", "api"), ("pod", "1")]);
        let id = ProfileId::new(&api, UnixMs(1_700_000_000_000));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.time(), UnixMs(1_700_000_000_000));
        assert!(id.to_string().ends_with("-0000-018bcfe56800"), "{id}");
        let samples = SeriesKey { profile_type: ProfileType::cpu_samples(), ..api.clone() };
        assert_eq!(ProfileId::new(&samples, id.time()), id);
        let other = SeriesKey { tenant: "other".parse().unwrap(), ..api.clone() };
        for other in [other, key(&[("service_name", "api")]), key(&[("service_name", "ap"), ("pod", "i1")])] {
            assert_ne!(ProfileId::series_of(&other), id.series());
        }
        assert_ne!(ProfileId::new(&api, UnixMs(1)), id);
        let early = ProfileId::new(&api, UnixMs(-1));
        assert_eq!(early.to_string().parse(), Ok(early));
    }

    #[test]
    fn what_is_no_uuid_is_an_error() {
        let id: ProfileId = "7C9E6679-7425-40de-944b-e07fc1f90ae7".parse().unwrap();
        assert_eq!("7c9e6679742540de944be07fc1f90ae7".parse(), Ok(id));
        assert_eq!(id.to_string(), "7c9e6679-7425-40de-944b-e07fc1f90ae7");
        for bad in [
            "",
            "x",
            "7c9e6679-7425-40de-944b-e07fc1f90ae",
            "+c9e6679742540de944be07fc1f90ae7",
            "7c9e66797425-40de-944b-e07fc1f90ae7",
            "ä9e6679742540de944be07fc1f90ae7",
        ] {
            assert!(bad.parse::<ProfileId>().is_err(), "{bad}");
        }
        assert!("9".repeat(1000).parse::<ProfileId>().unwrap_err().id.len() == 100);
    }
}
