//! Whether reading a process's stack from BPF can freeze this kernel.
//!
//! Linux 5.19 began to look up the destination of a copy from user memory among the kernel's virtual mappings, under a
//! spin lock, where usercopy is hardened. BPF copies in interrupts: where a tick interrupts whoever holds that lock on
//! this CPU, the CPU waits for itself for ever. Mended in 6.4, 6.3.10 and 6.1.36 (kernel commit d319f344561d, "mm: Fix
//! `copy_from_user_nofault()`."); distributions mended others. So the version alone neither acquits nor condemns: what the
//! running kernel's code and configuration say goes before it.
//!
//! The decision is here, as a function of [`Evidence`]; reading that from the kernel is `look`.

mod look;

use std::fmt;

pub use look::look;

/// A version of the mainline kernel or of its stable branches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    /// The first two numbers.
    pub series: (u32, u32),
    /// The third.
    pub patch: u32,
}

/// What is known of the running kernel. Each absence is "not known", and never speaks for the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Its version.
    pub version: Option<KernelVersion>,
    /// Whether copies from user memory are checked at all: as configured, or as the boot parameter says.
    pub hardened: Option<bool>,
    /// Whether `copy_from_user_nofault` calls `nmi_uaccess_okay`, which came with the repair.
    pub asks_for_nmi: Option<bool>,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This version never had the fault, or has it mended.
    SafeVersion,
    /// The version had it, but this kernel's code has the repair.
    Mended,
    /// The version has it, but copies are not checked here.
    NotHardened,
    /// Nothing speaks against it.
    MayFreeze,
}

/// The first series with the fault.
const FIRST: (u32, u32) = (5, 19);
/// The first series that was released without it.
const LAST: (u32, u32) = (6, 4);
/// Stable branches between those that got the repair, and with which patch level.
const REPAIRED: [((u32, u32), u32); 2] = [((6, 1), 36), ((6, 3), 10)];

impl Evidence {
    /// The version as a sentence names it.
    pub fn version_text(self) -> String {
        self.version.map_or_else(|| "of unknown version".to_owned(), |version| version.to_string())
    }

    /// Whether this kernel may freeze.
    pub fn verdict(self) -> Verdict {
        if self.version.is_some_and(KernelVersion::is_safe) {
            return Verdict::SafeVersion;
        }
        match self {
            Self { hardened: Some(false), .. } => Verdict::NotHardened,
            Self { asks_for_nmi: Some(true), .. } => Verdict::Mended,
            _ => Verdict::MayFreeze,
        }
    }
}

impl KernelVersion {
    /// What the running kernel says of itself. Distributions count in the release (`uname -r`) in a way of their own:
    /// Debian's `6.1.0-41-amd64` is 6.1.158, which only the build line tells; Ubuntu has a file for it.
    pub fn of(release: &str, build: &str, ubuntu_signature: &str) -> Option<Self> {
        let of_release = Self::parse(release)?;
        let upstream = [
            ubuntu_signature.split_whitespace().last(),
            build.split_once("Debian ").map(|(_, version)| version),
        ];
        let mut told = upstream.into_iter().flatten().filter_map(Self::parse);
        // A kernel that somebody built themselves may still carry the distribution's line.
        Some(told.find(|version| version.series == of_release.series).unwrap_or(of_release))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().ok());
        let series = (numbers.next()??, numbers.next()??);
        // `6.4-rc1` and `6.4` have no third number, or another's.
        let has_patch =
            text.split('.').nth(2).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        let patch = if has_patch { numbers.next()?? } else { 0 };
        Some(Self { series, patch })
    }

    fn is_safe(self) -> bool {
        let outside = self.series < FIRST || self.series >= LAST;
        outside || REPAIRED.iter().any(|(series, patch)| self.series == *series && self.patch >= *patch)
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.series.0, self.series.1, self.patch)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SafeVersion => "this version reads user memory without the fault of 5.19 to 6.3",
            Self::Mended => "of a version that could freeze, but with the repair",
            Self::NotHardened => "of a version that could freeze, but without hardened usercopy",
            Self::MayFreeze => "can freeze when BPF reads a process's stack",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Option<KernelVersion> {
        KernelVersion::parse(text)
    }

    #[test]
    fn versions_with_the_fault() {
        let verdict = |text| Evidence { version: version(text), ..Evidence::default() }.verdict();
        for bad in ["5.19", "5.19.17", "6.0.19", "6.1.0", "6.1.35", "6.2.16", "6.3-rc1", "6.3.9"] {
            assert_eq!(verdict(bad), Verdict::MayFreeze, "{bad}");
        }
        for good in [
            "4.19.0",
            "5.10.0-30-amd64",
            "5.18.19",
            "6.1.36",
            "6.1.158",
            "6.3.10",
            "6.4-rc1",
            "6.4.0",
            "6.18.44-fc",
            "10.0.1",
        ] {
            assert_eq!(verdict(good), Verdict::SafeVersion, "{good}");
        }
    }

    #[test]
    fn evidence_of_the_kernel_goes_before_its_version() {
        let check = |version_text, hardened, asks_for_nmi, expect| {
            let evidence = Evidence { version: version(version_text), hardened, asks_for_nmi };
            assert_eq!(evidence.verdict(), expect, "{evidence:?}");
        };
        check("6.2.16", Some(false), None, Verdict::NotHardened);
        check("6.2.16", Some(true), Some(true), Verdict::Mended);
        check("6.2.16", None, Some(true), Verdict::Mended);
        check("6.2.16", Some(true), Some(false), Verdict::MayFreeze);
        check("6.2.16", Some(true), None, Verdict::MayFreeze);
        check("6.2.16", None, Some(false), Verdict::MayFreeze);
        // Older kernels lack the call and the fault.
        check("5.10.0", Some(true), Some(false), Verdict::SafeVersion);
        // Nothing known of the version: only the kernel's own code acquits it.
        check("what", Some(true), None, Verdict::MayFreeze);
        check("what", None, Some(true), Verdict::Mended);
    }

    #[test]
    fn the_version_behind_a_distributions_name() {
        let check = |release: &str, build: &str, signature: &str, expect: &str| {
            let found = KernelVersion::of(release, build, signature).map(|version| version.to_string());
            assert_eq!(found.as_deref(), Some(expect), "{release} {build} {signature}");
        };
        let debian = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.158-1 (2025-11-09)\n";
        check("6.1.0-41-cloud-amd64\n", debian, "", "6.1.158");
        check("6.1.0-9-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.27-1 (2023-05-08)", "", "6.1.27");
        check("6.2.0-39-generic", "#40-Ubuntu SMP", "Ubuntu 6.2.0-39.40~22.04.1-generic 6.2.16\n", "6.2.16");
        check("6.18.44-fc-v669", "#1 SMP", "", "6.18.44");
        // Built from mainline, on a machine whose build line was copied from Debian's.
        check("6.2.1", debian, "", "6.2.1");
        assert_eq!(KernelVersion::of("", debian, ""), None);
    }
}
