//! Profile type ids: `name:sample_type:sample_unit:period_type:period_unit`.

use std::fmt;
use std::str::FromStr;

/// What one value of a profile counts and how it was sampled.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProfileType {
    /// Group name, for example `process_cpu`.
    pub name: String,
    /// What is counted, for example `cpu`.
    pub sample_type: String,
    /// Its unit, for example `nanoseconds`.
    pub sample_unit: String,
    /// What the period between samples is measured in, for example `cpu`.
    pub period_type: String,
    /// The period's unit.
    pub period_unit: String,
}

/// Why a string is not a profile type id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("profile type {id:?} must have 5 parts separated by colons, optionally followed by \":delta\"")]
pub struct ProfileTypeError {
    /// The rejected string.
    pub id: String,
}

impl ProfileType {
    /// CPU time: `process_cpu:cpu:nanoseconds:cpu:nanoseconds`.
    pub fn cpu_time() -> Self {
        Self::process_cpu("cpu", "nanoseconds")
    }

    /// Number of CPU samples: `process_cpu:samples:count:cpu:nanoseconds`.
    pub fn cpu_samples() -> Self {
        Self::process_cpu("samples", "count")
    }

    /// Time off the CPU: `off_cpu:off_cpu:nanoseconds:off_cpu:nanoseconds`.
    pub fn off_cpu() -> Self {
        Self::time("off_cpu")
    }

    /// Time on the CPU and off it: `wall:wall:nanoseconds:wall:nanoseconds`.
    pub fn wall() -> Self {
        Self::time("wall")
    }

    /// The stored types whose rows, where they have the label `state`, are rows of this type as well. Only
    /// [`Self::wall`] has such: a node's stacks would else be stored twice.
    pub fn made_of(&self) -> Vec<Self> {
        if *self == Self::wall() { vec![Self::cpu_time(), Self::off_cpu()] } else { Vec::new() }
    }

    /// Whether a program that is asked for such values counts them since its start, as Go does what it allocated. A series
    /// may have others all the same, see [`SeriesKey::is_cumulative`](crate::SeriesKey::is_cumulative).
    pub fn may_be_cumulative(&self) -> bool {
        is_cumulative(&self.name, &self.sample_type)
    }

    fn time(name: &str) -> Self {
        Self {
            name: name.into(),
            sample_type: name.into(),
            sample_unit: "nanoseconds".into(),
            period_type: name.into(),
            period_unit: "nanoseconds".into(),
        }
    }

    fn process_cpu(sample_type: &str, sample_unit: &str) -> Self {
        Self {
            name: "process_cpu".into(),
            sample_type: sample_type.into(),
            sample_unit: sample_unit.into(),
            period_type: "cpu".into(),
            period_unit: "nanoseconds".into(),
        }
    }
}

/// See [`ProfileType::may_be_cumulative`].
pub(crate) fn is_cumulative(name: &str, sample_type: &str) -> bool {
    name == "memory" && matches!(sample_type, "alloc_objects" | "alloc_space")
}

impl fmt::Display for ProfileType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, sample_type, sample_unit, period_type, period_unit } = self;
        write!(f, "{name}:{sample_type}:{sample_unit}:{period_type}:{period_unit}")
    }
}

impl FromStr for ProfileType {
    type Err = ProfileTypeError;

    fn from_str(id: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = id.split(':').collect();
        match parts[..] {
            [name, sample_type, sample_unit, period_type, period_unit]
            | [name, sample_type, sample_unit, period_type, period_unit, "delta"] => Ok(Self {
                name: name.into(),
                sample_type: sample_type.into(),
                sample_unit: sample_unit.into(),
                period_type: period_type.into(),
                period_unit: period_unit.into(),
            }),
            _ => Err(ProfileTypeError { id: id.into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_five_parts_and_the_legacy_delta_suffix() {
        let id = "process_cpu:cpu:nanoseconds:cpu:nanoseconds";
        assert_eq!(id.parse(), Ok(ProfileType::cpu_time()));
        assert_eq!(format!("{id}:delta").parse(), Ok(ProfileType::cpu_time()));
        assert_eq!(ProfileType::cpu_time().to_string(), id);
        assert_eq!(ProfileType::off_cpu().to_string(), "off_cpu:off_cpu:nanoseconds:off_cpu:nanoseconds");
        assert_eq!(ProfileType::wall().to_string(), "wall:wall:nanoseconds:wall:nanoseconds");
        for bad in ["", "a:b:c:d", "a:b:c:d:e:f", "a:b:c:d:e:f:g"] {
            assert!(bad.parse::<ProfileType>().is_err(), "{bad}");
        }
    }
}
