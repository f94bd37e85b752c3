//! From a decoded instruction to the family that carries it out.

use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use super::cpu::{Cpu, flag};
use super::fault::{Stop, UD, vector};
use super::interrupt::Source;
use super::machine::Machine;
use super::paging::Access;

impl<M: Machine> Cpu<'_, M> {
    /// Carries out one instruction. After an error the caller takes the registers back, unless `kept` says not to.
    pub(crate) fn execute(&mut self, i: &Instruction) -> Result<(), Stop> {
        if i.is_string_instruction() && !matches!(i.op0_kind(), OpKind::Register if i.op0_register().is_xmm())
        {
            return self.string(i);
        }
        match i.mnemonic() {
            Mnemonic::Mov => self.mov(i),
            Mnemonic::Movzx
            | Mnemonic::Movsx
            | Mnemonic::Movsxd
            | Mnemonic::Movnti
            | Mnemonic::Movbe
            | Mnemonic::Bswap => self.convert(i),
            Mnemonic::Cbw
            | Mnemonic::Cwde
            | Mnemonic::Cdqe
            | Mnemonic::Cwd
            | Mnemonic::Cdq
            | Mnemonic::Cqo => {
                self.widen(i);
                Ok(())
            }
            Mnemonic::Lea => self.lea(i),
            Mnemonic::Xlatb => self.xlat(i),
            Mnemonic::Xchg => self.exchange(i),
            Mnemonic::Xadd => self.exchange_add(i),
            Mnemonic::Cmpxchg => self.compare_exchange(i),
            Mnemonic::Cmpxchg8b | Mnemonic::Cmpxchg16b => self.compare_exchange_pair(i),
            Mnemonic::Add
            | Mnemonic::Adc
            | Mnemonic::Sub
            | Mnemonic::Sbb
            | Mnemonic::Cmp
            | Mnemonic::And
            | Mnemonic::Or
            | Mnemonic::Xor
            | Mnemonic::Test => self.binary(i),
            Mnemonic::Inc | Mnemonic::Dec | Mnemonic::Neg | Mnemonic::Not => self.unary(i),
            Mnemonic::Aaa | Mnemonic::Aas | Mnemonic::Aad | Mnemonic::Aam | Mnemonic::Daa | Mnemonic::Das => {
                self.decimal(i)
            }
            Mnemonic::Mul | Mnemonic::Imul => self.multiply(i),
            Mnemonic::Div | Mnemonic::Idiv => self.divide(i),
            Mnemonic::Shl | Mnemonic::Sal | Mnemonic::Shr | Mnemonic::Sar => self.shift(i),
            Mnemonic::Rol | Mnemonic::Ror | Mnemonic::Rcl | Mnemonic::Rcr => self.rotate(i),
            Mnemonic::Shld | Mnemonic::Shrd => self.double_shift(i),
            Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc => self.bit(i),
            Mnemonic::Bsf | Mnemonic::Bsr | Mnemonic::Lzcnt | Mnemonic::Tzcnt | Mnemonic::Popcnt => {
                self.scan(i)
            }
            Mnemonic::Push => self.push_operand(i),
            Mnemonic::Pop => self.pop_operand(i),
            Mnemonic::Pusha | Mnemonic::Pushad => self.push_all(i),
            Mnemonic::Popa | Mnemonic::Popad => self.pop_all(i),
            Mnemonic::Pushf | Mnemonic::Pushfd | Mnemonic::Pushfq => self.push_flags(i),
            Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq => self.pop_flags(i),
            Mnemonic::Enter => self.enter(i),
            Mnemonic::Leave => self.leave(i),
            Mnemonic::Ret => self.near_return(i),
            Mnemonic::Retf => self.far_return(i),
            Mnemonic::Iret | Mnemonic::Iretd | Mnemonic::Iretq => self.interrupt_return(i),
            Mnemonic::Jmp | Mnemonic::Call => self.branch(i),
            Mnemonic::Loop
            | Mnemonic::Loope
            | Mnemonic::Loopne
            | Mnemonic::Jcxz
            | Mnemonic::Jecxz
            | Mnemonic::Jrcxz => self.counted(i),
            Mnemonic::In | Mnemonic::Out => self.port(i),
            Mnemonic::Lahf
            | Mnemonic::Sahf
            | Mnemonic::Clc
            | Mnemonic::Stc
            | Mnemonic::Cmc
            | Mnemonic::Cld
            | Mnemonic::Std
            | Mnemonic::Salc => self.flags(i),
            Mnemonic::Bound => self.bound(i),
            Mnemonic::Lds | Mnemonic::Les | Mnemonic::Lfs | Mnemonic::Lgs | Mnemonic::Lss => {
                self.load_pointer(i)
            }
            Mnemonic::Lldt | Mnemonic::Ltr => self.load_system(i),
            Mnemonic::Lar | Mnemonic::Lsl | Mnemonic::Verr | Mnemonic::Verw => self.inspect(i),
            Mnemonic::Cli
            | Mnemonic::Sti
            | Mnemonic::Hlt
            | Mnemonic::Clts
            | Mnemonic::Invd
            | Mnemonic::Wbinvd
            | Mnemonic::Invlpg => self.control(i),
            Mnemonic::Lgdt | Mnemonic::Lidt | Mnemonic::Sgdt | Mnemonic::Sidt => self.table(i),
            Mnemonic::Smsw | Mnemonic::Lmsw | Mnemonic::Sldt | Mnemonic::Str => self.status_word(i),
            Mnemonic::Cpuid | Mnemonic::Rdtsc | Mnemonic::Rdtscp | Mnemonic::Rdmsr | Mnemonic::Wrmsr => {
                self.identify(i)
            }
            Mnemonic::Int => {
                if self.test(flag::VM) && self.state.rflags & flag::IOPL != flag::IOPL {
                    return Err(super::fault::GP);
                }
                let back = self.next;
                self.deliver(i.immediate8(), None, Source::Software, back)
            }
            Mnemonic::Int3 => {
                let back = self.next;
                self.deliver(vector::BP, None, Source::Software, back)
            }
            Mnemonic::Into => {
                let back = self.next;
                if self.test(flag::OF) {
                    self.deliver(vector::OF, None, Source::Software, back)
                } else {
                    Ok(())
                }
            }
            Mnemonic::Nop
            | Mnemonic::Pause
            | Mnemonic::Mfence
            | Mnemonic::Lfence
            | Mnemonic::Sfence
            | Mnemonic::Prefetchnta
            | Mnemonic::Prefetcht0
            | Mnemonic::Prefetcht1
            | Mnemonic::Prefetcht2
            | Mnemonic::Prefetchw
            | Mnemonic::Endbr32
            | Mnemonic::Endbr64
            | Mnemonic::Wait => Ok(()),
            // It reads nothing, and faults as if it did.
            Mnemonic::Clflush => {
                let linear = self.address(i, 1, Access::Read)?;
                self.probe(linear, 1, Access::Read)
            }
            Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2 => Err(UD),
            _ if i.is_jcc_short_or_near() => self.jump_condition(i),
            _ if is_set(i.code()) => self.set_condition(i),
            _ if is_move(i.code()) => self.move_condition(i),
            _ => Err(Stop::Unknown),
        }
    }

    fn branch(&mut self, i: &Instruction) -> Result<(), Stop> {
        let call = i.mnemonic() == Mnemonic::Call;
        if i.is_jmp_far() || i.is_jmp_far_indirect() || i.is_call_far() || i.is_call_far_indirect() {
            self.far_branch(i)
        } else if call {
            self.near_call(i)
        } else {
            self.near_jump(i)
        }
    }
}

/// `SETcc`: the sixteen codes are in order.
fn is_set(code: Code) -> bool {
    (Code::Seto_rm8 as usize..=Code::Setg_rm8 as usize).contains(&(code as usize))
}

/// `CMOVcc`: likewise, three widths each.
fn is_move(code: Code) -> bool {
    (Code::Cmovo_r16_rm16 as usize..=Code::Cmovg_r64_rm64 as usize).contains(&(code as usize))
}
