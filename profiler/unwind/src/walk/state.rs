//! Where a walk stands: the registers of one frame, and how much of them is known.

use pyrite_bpf::abi::pyrite_stack_copy;

/// What a lost frame pointer reads as: no frame record lies at an odd address, so no step by it can succeed.
pub(super) const LOST: u64 = 1;

/// The instruction set of the walked process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// 64-bit x86.
    X86_64,
    /// 64-bit Arm.
    Aarch64 {
        /// Bits of a code address that are no part of it (pointer authentication).
        address_tag_mask: u64,
    },
}

/// The registers that every frame needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// rip or pc.
    pub ip: u64,
    /// rsp or sp.
    pub sp: u64,
    /// rbp or x29.
    pub fp: u64,
    /// x30; read on aarch64 only.
    pub lr: u64,
}

impl Registers {
    /// How many registers DWARF numbers at most.
    pub const COUNT: usize = 32;
}

/// Where a walk begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Of the frame to begin with.
    pub registers: Registers,
    /// All registers by DWARF number, where they are known.
    pub all: Option<[u64; Registers::COUNT]>,
    /// Whether `ip` is the instruction to be executed next, at a leaf or behind a signal, and no return address.
    pub exact: bool,
    /// Whether `registers.sp` is no more than a lower bound.
    pub sp_lost: bool,
}

impl Start {
    /// A leaf of which ip, sp, fp and lr are known.
    pub fn leaf(registers: Registers) -> Self {
        Self { registers, all: None, exact: true, sp_lost: false }
    }

    /// Where the BPF walker stopped and copied. All registers are known in exact frames only, so they tell those apart.
    pub fn from_copy(copy: &pyrite_stack_copy, machine: Machine) -> Self {
        let all_known = copy.all_registers != 0;
        let at = |number: usize| copy.registers.get(number).copied().unwrap_or(0);
        Self {
            registers: Registers {
                ip: copy.ip,
                sp: at(machine.sp()),
                fp: at(machine.fp()),
                lr: at(machine.lr()),
            },
            all: all_known.then_some(copy.registers),
            exact: all_known || copy.frames_before == 0,
            sp_lost: copy.sp_lost != 0,
        }
    }
}

/// A [`Start`] that moves.
pub(super) struct Cursor {
    pub(super) registers: Registers,
    pub(super) exact: bool,
    /// `registers.sp` is no more than a lower bound of SP.
    pub(super) sp_lost: bool,
    all: Option<[u64; Registers::COUNT]>,
}

impl Cursor {
    pub(super) fn new(start: &Start, machine: Machine) -> Self {
        let mut registers = start.registers;
        registers.ip = machine.strip(registers.ip);
        Self { registers, exact: start.exact, sp_lost: start.sp_lost, all: start.all }
    }

    /// The position whose rule holds: a return address belongs to the call before it.
    pub(super) fn lookup_pc(&self) -> u64 {
        self.registers.ip.wrapping_sub(u64::from(!self.exact))
    }

    /// The register of this DWARF number, where all are known.
    pub(super) fn register(&self, number: u8, machine: Machine) -> Option<u64> {
        self.all.as_ref()?.get(..machine.registers())?.get(usize::from(number)).copied()
    }

    pub(super) fn enter_caller(&mut self, ip: u64, sp: u64, fp: u64) {
        self.registers = Registers { ip, sp, fp, lr: 0 };
        self.exact = false;
        self.sp_lost = false;
        self.all = None;
    }

    pub(super) fn enter_interrupted(&mut self, ip: u64, all: [u64; Registers::COUNT], machine: Machine) {
        self.registers =
            Registers { ip, sp: all[machine.sp()], fp: all[machine.fp()], lr: all[machine.lr()] };
        self.exact = true;
        self.sp_lost = false;
        self.all = Some(all);
    }
}
