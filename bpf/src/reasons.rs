//! The Rust side of `include/reasons.def`: enums with a stable name and a help text for each reason.

macro_rules! reasons {
    (
        $(#[$doc:meta])* $name:ident, $count:literal;
        variants { $($(#[$variant_doc:meta])* $variant:ident,)* }
        table { $(($path:path, $label:literal, $help:literal),)* }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// How many there are.
            pub const COUNT: usize = $count;
            /// All of them, in the order of their codes.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$variant,)*];

            /// The stable short name, used as the metric label.
            pub fn name(self) -> &'static str {
                match self { $($path => $label,)* }
            }

            /// What it means, in a few words.
            pub fn help(self) -> &'static str {
                match self { $($path => $help,)* }
            }

            /// The reason with this code, as the BPF programs write it.
            pub fn from_code(code: u8) -> Option<Self> {
                Self::ALL.get(usize::from(code)).copied()
            }
        }
    };
}

include!(concat!(env!("OUT_DIR"), "/reasons.rs"));

impl StackOutcome {
    /// Whether the walk came to where the stack is known to end, or there was none to walk.
    pub fn is_known_end(self) -> bool {
        matches!(self, Self::Absent | Self::Complete | Self::ChainEnd)
    }

    /// Whether the walk came to where no code, or no stack, is. The rules that it went by were perhaps those of other code.
    pub fn is_astray(self) -> bool {
        matches!(self, Self::NoMapping | Self::BadFrame | Self::Fault)
    }
}
