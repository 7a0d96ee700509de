//! DWARF expressions as far as rules can say them: a register plus a constant, one load, another constant.
//!
//! The expression is run with symbols instead of numbers. Compilers and hand-written assembly use little else: what is
//! left over is below one row in a thousand.

use gimli::{Encoding, EndianSlice, Expression, Format, LittleEndian, Operation};

/// Longer expressions are not looked at; the longest one that is understood has eleven bytes.
const MAX_BYTES: usize = 64;
const MAX_STACK: usize = 8;

/// What an expression comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Constant(i64),
    /// Register (DWARF number) + offset.
    Register {
        register: u16,
        offset: i64,
    },
    /// `*(register + offset) + add`.
    Loaded {
        register: u16,
        offset: i64,
        add: i64,
    },
    /// SP + 8, and 8 more where the instruction pointer is `pushed_from` or more bytes into its 16-byte entry.
    Plt {
        pushed_from: u8,
    },
}

/// What `expression` comes to; `None` where it is malformed or beyond [`Value`].
pub(crate) fn evaluate(expression: &Expression<EndianSlice<'_, LittleEndian>>) -> Option<Value> {
    let bytes = expression.0.slice();
    if bytes.len() > MAX_BYTES {
        return None;
    }
    if let Some(value) = plt(bytes) {
        return Some(value);
    }
    let mut stack = Vec::with_capacity(MAX_STACK);
    let encoding = Encoding { address_size: 8, format: Format::Dwarf32, version: 4 };
    let mut operations = expression.operations(encoding);
    while let Some(operation) = operations.next().ok()? {
        step(&mut stack, operation)?;
        if stack.len() > MAX_STACK {
            return None;
        }
    }
    stack.pop()
}

/// What linkers write for procedure linkage tables:
/// `breg7 8; breg16 0; lit15; and; lit<n>; ge; lit3; shl; plus`, where n depends on the kind of table.
fn plt(bytes: &[u8]) -> Option<Value> {
    const LIT1: u8 = 0x31;
    const LIT15: u8 = 0x3f;
    match *bytes {
        [0x77, 8, 0x80, 0, LIT15, 0x1a, literal @ LIT1..=LIT15, 0x2a, 0x33, 0x24, 0x22] => {
            Some(Value::Plt { pushed_from: literal - LIT1 + 1 })
        }
        _ => None,
    }
}

fn step(stack: &mut Vec<Value>, operation: Operation<EndianSlice<'_, LittleEndian>>) -> Option<()> {
    let value = match operation {
        Operation::UnsignedConstant { value } => Value::Constant(i64::try_from(value).ok()?),
        Operation::SignedConstant { value } => Value::Constant(value),
        // The base type would be an offset into `.debug_info`, which call frame information has none of.
        Operation::RegisterOffset { register, offset, base_type } if base_type.0 == 0 => {
            Value::Register { register: register.0, offset }
        }
        Operation::PlusConstant { value } => add(stack.pop()?, i64::try_from(value).ok()?)?,
        Operation::Plus => match (stack.pop()?, stack.pop()?) {
            (Value::Constant(constant), value) | (value, Value::Constant(constant)) => add(value, constant)?,
            _ => return None,
        },
        Operation::Minus => match (stack.pop()?, stack.pop()?) {
            (Value::Constant(constant), value) => add(value, constant.checked_neg()?)?,
            _ => return None,
        },
        Operation::Deref { size: 8, space: false, .. } => match stack.pop()? {
            Value::Register { register, offset } => Value::Loaded { register, offset, add: 0 },
            _ => return None,
        },
        Operation::Nop => return Some(()),
        _ => return None,
    };
    stack.push(value);
    Some(())
}

fn add(value: Value, constant: i64) -> Option<Value> {
    Some(match value {
        Value::Constant(value) => Value::Constant(value.checked_add(constant)?),
        Value::Register { register, offset } => {
            Value::Register { register, offset: offset.checked_add(constant)? }
        }
        Value::Loaded { register, offset, add } => {
            Value::Loaded { register, offset, add: add.checked_add(constant)? }
        }
        Value::Plt { .. } => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expect: Option<Value>) {
        assert_eq!(evaluate(&Expression(EndianSlice::new(bytes, LittleEndian))), expect, "{bytes:02x?}");
    }

    #[test]
    fn what_assemblers_and_compilers_write() {
        let loaded = |register, offset, add| Some(Value::Loaded { register, offset, add });
        // libcrypto: the caller's SP was stored on the stack; breg7 56; deref; plus_uconst 8
        check(&[0x77, 0x38, 0x06, 0x23, 0x08], loaded(7, 56, 8));
        // Functions that realign the stack: breg6 -8; deref
        check(&[0x76, 0x78, 0x06], loaded(6, -8, 0));
        // The signal trampoline: breg7 160; deref
        check(&[0x77, 0xa0, 0x01, 0x06], loaded(7, 160, 0));
        check(&[0x76, 0x00], Some(Value::Register { register: 6, offset: 0 }));
        // breg7 0; lit24; plus; const1u 8; minus
        check(&[0x77, 0x00, 0x48, 0x22, 0x08, 0x08, 0x1c], Some(Value::Register { register: 7, offset: 16 }));
        // bregx 7, 8
        check(&[0x92, 0x07, 0x08], Some(Value::Register { register: 7, offset: 8 }));
    }

    #[test]
    fn procedure_linkage_tables_of_every_kind() {
        let plt = |literal| [0x77, 8, 0x80, 0, 0x3f, 0x1a, literal, 0x2a, 0x33, 0x24, 0x22];
        check(&plt(0x3b), Some(Value::Plt { pushed_from: 11 }));
        check(&plt(0x39), Some(Value::Plt { pushed_from: 9 }));
        check(&plt(0x35), Some(Value::Plt { pushed_from: 5 }));
        check(&plt(0x30), None);
    }

    #[test]
    fn what_is_beyond_a_rule_is_none() {
        check(&[], None);
        check(&[0x06], None);
        check(&[0x77], None);
        check(&[0xff], None);
        // Two loads.
        check(&[0x77, 0x08, 0x06, 0x06], None);
        // deref_size 4
        check(&[0x77, 0x08, 0x94, 0x04], None);
        // The sum of two registers.
        check(&[0x77, 0x08, 0x76, 0x08, 0x22], None);
        // Jumps, which could loop.
        check(&[0x2f, 0xfd, 0xff], None);
        check(&[0x31; MAX_STACK + 1], None);
        check(&[0x96; MAX_BYTES + 1], None);
    }
}
