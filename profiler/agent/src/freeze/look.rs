//! Reads what [`Evidence`] needs from the running kernel. Only a kernel of a doubtful version is looked at closely.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;

use super::{Evidence, KernelVersion};

/// The function that copies from user memory for BPF; the check with the lock; the call that the repair brought.
const COPY: &str = "copy_from_user_nofault";
const CHECK: &str = "__check_object_size";
const REPAIR: &str = "nmi_uaccess_okay";
/// The copying function has about 200 bytes.
const MAX_CODE_BYTES: u64 = 1024;
const MAX_CONFIG_BYTES: u64 = 4 << 20;

/// What this kernel says of itself.
pub fn look() -> Evidence {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let release = read("/proc/sys/kernel/osrelease");
    let build = read("/proc/sys/kernel/version");
    let version = KernelVersion::of(&release, &build, &read("/proc/version_signature"));
    if version.is_some_and(KernelVersion::is_safe) {
        return Evidence { version, ..Evidence::default() };
    }
    let symbols = File::open("/proc/kallsyms").ok().and_then(|file| Symbols::read(BufReader::new(file)));
    let asks_for_nmi = symbols.as_ref().and_then(|symbols| {
        let code = read_kernel_code(symbols.copy, symbols.after_copy)?;
        calls(symbols.copy, &code, symbols.repair?)
    });
    // A kernel that lists its functions but not this one was built without the check.
    let not_built = symbols.is_some_and(|symbols| !symbols.has_check);
    let hardened = if not_built || is_switched_off(&read("/proc/cmdline")) {
        Some(false)
    } else {
        read_config(release.trim()).map(|config| is_configured(&config))
    };
    Evidence { version, hardened, asks_for_nmi }
}

/// Where the functions in question are; an address of 0 is a hidden one (`kernel.kptr_restrict`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Symbols {
    copy: u64,
    /// The next function behind it.
    after_copy: u64,
    has_check: bool,
    repair: Option<u64>,
}

impl Symbols {
    /// From the lines `address type name [module]`; `None` where the copying function is not among them.
    fn read(lines: impl BufRead) -> Option<Self> {
        let (mut copy, mut repair, mut has_check) = (None, None, false);
        let mut addresses = Vec::new();
        for line in lines.lines().map_while(Result::ok) {
            let mut words = line.split_ascii_whitespace();
            let (Some(address), Some(kind), Some(name)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            let Ok(address) = u64::from_str_radix(address, 16) else { continue };
            if matches!(kind, "t" | "T") {
                addresses.push(address);
            }
            match name {
                COPY => copy = Some(address),
                REPAIR => repair = Some(address).filter(|address| *address != 0),
                CHECK => has_check = true,
                _ => {}
            }
        }
        let copy = copy?;
        let after_copy = addresses.into_iter().filter(|address| *address > copy).min().unwrap_or(copy);
        Some(Self { copy, after_copy, has_check, repair })
    }
}

/// Whether `x86_64` `code`, which lies at `start`, has a call to `target`. On other architectures the repair cannot be seen
/// in the code, for there the call is empty.
fn calls(start: u64, code: &[u8], target: u64) -> Option<bool> {
    const CALL: u8 = 0xe8;
    /// Call depth tracking, a mitigation, calls into the padding before a function.
    const PADDING_BYTES: u64 = 64;
    if !cfg!(target_arch = "x86_64") || code.is_empty() {
        return None;
    }
    // Instructions are not told apart from their operands; that four bytes in a row lead to the target by chance is
    // nothing to reckon with.
    Some(code.windows(5).enumerate().any(|(at, bytes)| {
        let distance = i32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]);
        let called = start.wrapping_add(at as u64 + 5).wrapping_add_signed(i64::from(distance));
        bytes[0] == CALL && target.wrapping_sub(called) <= PADDING_BYTES
    }))
}

/// Kernel memory through `/proc/kcore`, an ELF file whose segments are the kernel's mappings.
fn read_kernel_code(start: u64, end: u64) -> Option<Vec<u8>> {
    let len = end.checked_sub(start).filter(|len| (1..=MAX_CODE_BYTES).contains(len))?;
    let memory = File::open("/proc/kcore").ok()?;
    let mut head = [0; 64];
    memory.read_exact_at(&mut head, 0).ok()?;
    let mut headers = vec![0; program_header_bytes(&head)?];
    memory.read_exact_at(&mut headers, word(&head, 32)?).ok()?;
    let mut code = vec![0; len as usize];
    memory.read_exact_at(&mut code, offset_of(start, end, &headers)?).ok()?;
    Some(code)
}

const PROGRAM_HEADER_BYTES: usize = 56;

fn program_header_bytes(head: &[u8; 64]) -> Option<usize> {
    let count = usize::from(u16::from_le_bytes([head[56], head[57]]));
    let entry = usize::from(u16::from_le_bytes([head[54], head[55]]));
    (head.starts_with(b"\x7fELF\x02\x01") && entry == PROGRAM_HEADER_BYTES).then_some(count * entry)
}

/// Where in the file the bytes from `start` to `end` are.
fn offset_of(start: u64, end: u64, headers: &[u8]) -> Option<u64> {
    headers.as_chunks::<PROGRAM_HEADER_BYTES>().0.iter().find_map(|header| {
        let (offset, first, bytes) = (word(header, 8)?, word(header, 16)?, word(header, 32)?);
        let holds = first <= start && end <= first.saturating_add(bytes);
        if holds { offset.checked_add(start - first) } else { None }
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|word| u64::from_le_bytes(*word))
}

/// Whether the boot parameter switches the check off, in any way that the kernel reads as "no".
fn is_switched_off(command_line: &str) -> bool {
    let mut values =
        command_line.split_whitespace().filter_map(|word| word.strip_prefix("hardened_usercopy="));
    values.next_back().is_some_and(|value| matches!(value, "off" | "0") || value.starts_with(['n', 'N']))
}

fn read_config(release: &str) -> Option<String> {
    let packed = File::open("/proc/config.gz").ok().and_then(|file| {
        let mut text = String::new();
        let unpacked = flate2::read::GzDecoder::new(file).take(MAX_CONFIG_BYTES);
        { unpacked }.read_to_string(&mut text).ok().map(|_| text)
    });
    let paths = [format!("/boot/config-{release}"), format!("/lib/modules/{release}/config")];
    let config = packed.or_else(|| paths.iter().find_map(|path| fs::read_to_string(path).ok()));
    config.filter(|config| config.contains("CONFIG_"))
}

fn is_configured(config: &str) -> bool {
    config.lines().any(|line| line.trim() == "CONFIG_HARDENED_USERCOPY=y")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_found_by_name_with_their_ends() {
        let text = "ffffffff81000000 T _text\nffffffff81200100 T copy_from_user_nofault\nffffffff81200080 t before\n\
                    ffffffff812001e0 T copy_to_user_nofault\nffffffff81070000 T nmi_uaccess_okay\n\
                    ffffffff81300000 T __check_object_size\nffffffff81200110 d data\nffffffffc0000000 t f\t[module]\n";
        let expect = Symbols {
            copy: 0xffff_ffff_8120_0100,
            after_copy: 0xffff_ffff_8120_01e0,
            has_check: true,
            repair: Some(0xffff_ffff_8107_0000),
        };
        assert_eq!(Symbols::read(text.as_bytes()), Some(expect));
        let hidden = "0000000000000000 T copy_from_user_nofault\n0000000000000000 T nmi_uaccess_okay\n";
        let expect = Symbols { copy: 0, after_copy: 0, has_check: false, repair: None };
        assert_eq!(Symbols::read(hidden.as_bytes()), Some(expect));
        assert_eq!(Symbols::read(&b"ffffffff81000000 T _text\nnonsense\n"[..]), None);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_call_is_recognised_by_where_it_leads() {
        let start = 0xffff_ffff_8120_0000_u64;
        let code_to = |target: u64| {
            let mut code = vec![0xf3, 0x0f, 0x1e, 0xfa, 0x53, 0xe8];
            let distance = target.wrapping_sub(start + 10) as u32;
            code.extend(distance.to_le_bytes());
            code.push(0xc3);
            code
        };
        for target in [start - 0x10_0000, start + 0x7f_0000] {
            assert_eq!(calls(start, &code_to(target), target), Some(true));
            assert_eq!(calls(start, &code_to(target - 16), target), Some(true), "into the padding");
            assert_eq!(calls(start, &code_to(target + 1), target), Some(false));
            assert_eq!(calls(start, &code_to(target - 0x80), target), Some(false));
        }
        assert_eq!(calls(start, &[], start), None, "unread code proves nothing");
    }

    #[test]
    fn kernel_memory_is_found_among_the_segments() {
        let header = |offset: u64, first: u64, bytes: u64| {
            let words = [1 | 7 << 32, offset, first, first, bytes, bytes, 0];
            words.iter().flat_map(|word: &u64| word.to_le_bytes()).collect::<Vec<u8>>()
        };
        let headers = [header(0x1000, 0x10_0000, 0x8000), header(0x9000, u64::MAX - 0xff, 0xff)].concat();
        assert_eq!(offset_of(0x10_0010, 0x10_0020, &headers), Some(0x1010));
        assert_eq!(offset_of(0x10_7ff0, 0x10_8001, &headers), None, "over the segment's end");
        assert_eq!(offset_of(0xff, 0x100, &headers), None);
        assert_eq!(offset_of(u64::MAX - 0x10, u64::MAX, &headers), Some(0x90ef));
    }

    #[test]
    fn boot_parameter_and_configuration() {
        for off in [
            "hardened_usercopy=off",
            "quiet hardened_usercopy=0 ro",
            "hardened_usercopy=on hardened_usercopy=no",
        ] {
            assert!(is_switched_off(off), "{off}");
        }
        for on in [
            "",
            "hardened_usercopy=on",
            "hardened_usercopy=off hardened_usercopy=1",
            "x_hardened_usercopy=off",
        ] {
            assert!(!is_switched_off(on), "{on}");
        }
        assert!(is_configured("CONFIG_A=y\nCONFIG_HARDENED_USERCOPY=y\n"));
        assert!(!is_configured(
            "# CONFIG_HARDENED_USERCOPY is not set\nCONFIG_HARDENED_USERCOPY_PAGESPAN=y\n"
        ));
    }

    #[test]
    fn this_kernel_can_be_looked_at() {
        assert!(look().version.is_some(), "the version of any running kernel can be read");
    }
}
