//! What differs between the machines: where a signal frame keeps registers, where the return address is, pointer tags.

use pyrite_bpf::abi::{PYRITE_AARCH64_REGISTERS, PYRITE_X86_64_REGISTERS};

use super::state::{Machine, Registers};

/// Offsets from SP, as it is in a signal handler's return trampoline, to the interrupted registers.
pub(super) struct SignalFrame {
    /// By DWARF number.
    pub(super) registers: &'static [u64],
    pub(super) ip: u64,
}

/// The handler's return popped `pretcode`, so SP points to the ucontext, whose `gregs` begin at 40 with r8 to r15, rdi, rsi,
/// rbp, rbx, rdx, rax, rcx, rsp, rip (`arch/x86/include/uapi/asm/sigcontext.h`).
static X86_64: SignalFrame = SignalFrame {
    registers: &[144, 136, 152, 128, 112, 104, 120, 160, 40, 48, 56, 64, 72, 80, 88, 96],
    ip: 168,
};

/// SP points to the siginfo (128 bytes); the ucontext behind it has its sigcontext at 176, and that its registers at 8: x0 to
/// x30, sp, pc (`arch/arm64/include/uapi/asm/sigcontext.h`).
static AARCH64: SignalFrame = SignalFrame { registers: &AARCH64_REGISTERS, ip: AARCH64_REGISTERS[31] + 8 };

static AARCH64_REGISTERS: [u64; Registers::COUNT] = {
    let mut offsets = [0; Registers::COUNT];
    let mut number = 0;
    while number < Registers::COUNT {
        offsets[number] = 128 + 176 + 8 + 8 * number as u64;
        number += 1;
    }
    offsets
};

impl Machine {
    /// How many registers have a DWARF number.
    pub(super) fn registers(self) -> usize {
        match self {
            Self::X86_64 => PYRITE_X86_64_REGISTERS as usize,
            Self::Aarch64 { .. } => PYRITE_AARCH64_REGISTERS as usize,
        }
    }

    /// DWARF number of the stack pointer.
    pub(super) fn sp(self) -> usize {
        match self {
            Self::X86_64 => 7,
            Self::Aarch64 { .. } => 31,
        }
    }

    /// DWARF number of the frame pointer.
    pub(super) fn fp(self) -> usize {
        match self {
            Self::X86_64 => 6,
            Self::Aarch64 { .. } => 29,
        }
    }

    /// DWARF number of the link register; `x86_64` has none, and nothing reads what stands in its place.
    pub(super) fn lr(self) -> usize {
        match self {
            Self::X86_64 => 16,
            Self::Aarch64 { .. } => 30,
        }
    }

    /// A code address without the bits that authenticate it.
    pub(super) fn strip(self, raw: u64) -> u64 {
        match self {
            Self::X86_64 => raw,
            Self::Aarch64 { address_tag_mask } => raw & !address_tag_mask,
        }
    }

    pub(super) fn signal_frame(self) -> &'static SignalFrame {
        match self {
            Self::X86_64 => &X86_64,
            Self::Aarch64 { .. } => &AARCH64,
        }
    }
}
