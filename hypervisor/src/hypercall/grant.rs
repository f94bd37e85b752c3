//! `grant_table_op`.
//!
//! Arrays are done [`BATCH`] elements at a time; in between the pointer and the count in the arguments move on, and the
//! guest executes the instruction again. Each element carries its own status, and the call fails only when an element
//! cannot be read or written.

use trunnion_protocol::hypercall::grant::{Copy, GetVersion, Map, Op, QuerySize, SetupTable, Unmap, Version};

use crate::granting::{Batch, Copies, UNMAP_BATCH};
use crate::prelude::*;

/// Elements that are done before interrupts and others get their turn.
const BATCH: u64 = UNMAP_BATCH as u64;
/// The only form of entries there is.
const VERSION: u32 = 1;

pub(super) fn call<M: Machine>(running: &mut Running<'_, M>, arguments: &mut Arguments) -> Reply {
    let op = Op::from_number(arguments.op()).ok_or(Errno::NoSys)?;
    let (width, at) = (arguments.width, arguments.pointer(1));
    let (host, domain, tally) = (running.host, running.domain, &running.vcpu.tally);
    let count = arguments.get(2) & 0xffff_ffff;
    match op {
        Op::Map => {
            let mut batch = Batch::new(host, domain);
            running.each_call(arguments, [0; 2], |call: &mut Map| {
                let result = batch.map(call);
                call.status = status(&result);
                tally.mapped.add(u64::from(result.is_ok()));
            })
        }
        Op::Unmap => {
            let mut batch = Batch::new(host, domain);
            let reply = running.each_call(arguments, [20; 2], |call: &mut Unmap| {
                let result = batch.unmap(call);
                call.status = status(&result);
                tally.unmapped.add(u64::from(result.is_ok()));
            });
            // Whatever was taken out is finished, also when a later element could not be read.
            drop(batch);
            life::reap(host);
            reply
        }
        Op::Copy => {
            let mut copies = Copies::new(host, domain);
            running.each_call(arguments, [36, 20], |call: &mut Copy| {
                let result = copies.copy(call);
                call.status = status(&result);
                tally.copied.add(u64::from(result.is_ok()));
            })
        }
        Op::SetupTable | Op::QuerySize | Op::SetVersion | Op::GetVersion if count != 1 => {
            Err(Errno::Inval.into())
        }
        Op::SetupTable => running.setup_table(width, at),
        Op::QuerySize => running.query_size(width, at),
        Op::SetVersion => running.set_version(width, at),
        Op::GetVersion => running.get_version(width, at),
        // Printing, version 2, and what is only for domains without nested paging.
        Op::DumpTable
        | Op::Transfer
        | Op::UnmapAndReplace
        | Op::GetStatusFrames
        | Op::SwapGrantRef
        | Op::CacheFlush => Err(Errno::NoSys.into()),
    }
}

/// A page with elements of an array, looked up once for all that lie in it. It is held: what is written goes to this page,
/// whatever becomes of the domain's map meanwhile.
struct Nearby<'h> {
    page: &'h SharedPage,
    /// Its number in the guest's addresses.
    number: u64,
    _held: Held<'h>,
}

impl<'h, M: Machine> Running<'h, M> {
    /// Does some elements of the array that the arguments name, then ends the call or goes on behind them. `returned` says where
    /// in an element, of either width, that begins which the call returns.
    fn each_call<T: Layout>(
        &mut self,
        arguments: &mut Arguments,
        returned: [usize; 2],
        work: impl FnMut(&mut T),
    ) -> Reply {
        match arguments.width {
            Width::W64 => self.each_in(Width::W64, arguments, returned[0], work),
            Width::W32 => self.each_in(Width::W32, arguments, returned[1], work),
        }
    }

    #[inline(always)]
    #[expect(
        clippy::inline_always,
        reason = "of a width that is known, most of decoding an element is nothing"
    )]
    fn each_in<T: Layout>(
        &mut self,
        width: Width,
        arguments: &mut Arguments,
        returned: usize,
        mut work: impl FnMut(&mut T),
    ) -> Reply {
        let size = T::size(width);
        let [_, pointer, count, ..] = &mut arguments.values;
        *count &= 0xffff_ffff;
        let mut nearby: Option<Nearby<'h>> = None;
        for _ in 0..BATCH.min(*count) {
            let at = Gva(*pointer);
            if nearby.as_ref().is_none_or(|nearby| nearby.number != at.0 >> PAGE_SHIFT) {
                nearby = self.near(at)?;
            }
            let offset = at.page_offset();
            if let Some(Nearby { page, .. }) = &nearby
                && offset + size <= PAGE_SIZE
            {
                let mut bytes = T::ZEROED;
                let bytes = bytes.as_mut().get_mut(..size).ok_or(Errno::Fault)?;
                page.copy_out(offset, bytes).map_err(|_| Errno::Fault)?;
                let mut call = T::decode(width, bytes).ok_or(Errno::Fault)?;
                work(&mut call);
                call.encode(width, bytes).ok_or(Errno::Fault)?;
                let bytes = bytes.get(returned..).ok_or(Errno::Fault)?;
                page.copy_in(offset + returned, bytes).map_err(|_| Errno::Fault)?;
            } else {
                let mut call: T = self.get(width, at)?;
                work(&mut call);
                self.put(width, at, &call)?;
            }
            *pointer = pointer.wrapping_add(size as u64);
            if width == Width::W32 {
                *pointer &= 0xffff_ffff;
            }
            *count -= 1;
        }
        if *count == 0 { Ok(0) } else { Err(Stop::Again) }
    }

    /// The page at an address; `None` when it is being taken away from the domain.
    fn near(&mut self, at: Gva) -> Result<Option<Nearby<'h>>, Errno> {
        let epoch = self.domain.walks.load(Ordering::Acquire);
        let found = self.with_memory(|memory| memory.translate(at, true))?;
        let host = self.host;
        let (Some(held), Some(page)) = (host.frames.hold(found.mfn), host.machine.page(found.mfn)) else {
            return Ok(None);
        };
        // The epoch changes before a frame is given back, so now the reference is to the domain's page.
        let is_there = self.domain.walks.load(Ordering::SeqCst) == epoch;
        Ok(is_there.then_some(Nearby { page, number: at.0 >> PAGE_SHIFT, _held: held }))
    }

    /// The domain that a call names, or the status that says why not.
    fn granter(&self, id: DomainId) -> Result<Arc<Domain<M>>, GrantStatus> {
        target(self, id).map_err(|errno| match errno {
            Errno::Perm => GrantStatus::PermissionDenied,
            _ => GrantStatus::BadDomain,
        })
    }

    /// Grows the table and lists where the domain has its frames. Guests with nested paging place the frames themselves, so
    /// a frame that is nowhere yet is listed as all ones.
    fn setup_table(&mut self, width: Width, at: Gva) -> Reply {
        let mut call: SetupTable = self.get(width, at)?;
        let domain = self.granter(call.domain).and_then(|domain| {
            domain.grow_grants(self.host, call.frames).map_err(|_| GrantStatus::GeneralError)?;
            Ok(domain)
        });
        call.status = status(&domain);
        if let Ok(domain) = domain {
            for index in 0..call.frames {
                let place = domain.grants.table.lock().frame(index).and_then(|(_, place)| place);
                let entry = Gva(call.list.0.wrapping_add(u64::from(index) * width.word() as u64));
                let value = place.map_or(u64::MAX, |gfn| gfn.0);
                self.with_memory(|memory| memory.put_word(width, entry, value)).map_err(Errno::from)?;
            }
        }
        self.put(width, at, &call)?;
        Ok(0)
    }

    fn query_size(&mut self, width: Width, at: Gva) -> Reply {
        let mut call: QuerySize = self.get(width, at)?;
        let domain = self.granter(call.domain);
        call.status = status(&domain);
        if let Ok(domain) = domain {
            let table = domain.grants.table.lock();
            call.frames = table.frames();
            call.limit = table.limit();
        }
        self.put(width, at, &call)?;
        Ok(0)
    }

    fn set_version(&mut self, width: Width, at: Gva) -> Reply {
        let mut call: Version = self.get(width, at)?;
        let result = match call.version {
            VERSION => Ok(0),
            2 => Err(Errno::NoSys.into()),
            _ => Err(Errno::Inval.into()),
        };
        call.version = VERSION;
        self.put(width, at, &call)?;
        result
    }

    fn get_version(&mut self, width: Width, at: Gva) -> Reply {
        let mut call: GetVersion = self.get(width, at)?;
        target(self, call.domain)?;
        call.version = VERSION;
        self.put(width, at, &call)?;
        Ok(0)
    }
}

fn status<T>(result: &Result<T, GrantStatus>) -> i16 {
    result.as_ref().err().unwrap_or(&GrantStatus::Okay).number()
}
