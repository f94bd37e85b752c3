//! What the two halves tell each other in the store.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use trunnion_protocol::blkif::{SEGMENTS, SEGMENTS_PER_INDIRECT_PAGE, info, keys, width};
use trunnion_protocol::id::{GrantRef, Port};
use trunnion_protocol::layout::Width;
use trunnion_protocol::ring::MAX_PAGE_ORDER;

use crate::device::BlockShape;
pub use crate::values::{BadKey, Values};

/// Most segments of an indirect request. They lie in one page.
pub const MOST_SEGMENTS: usize = 256;
const _: () = assert!(MOST_SEGMENTS <= SEGMENTS_PER_INDIRECT_PAGE);

/// Most segments that an indirect request may have with a device of this shape; 0 when indirect requests are not worth
/// offering.
pub fn indirect_segments(shape: &BlockShape) -> usize {
    match shape.max_segments.min(MOST_SEGMENTS) {
        few if few <= SEGMENTS => 0,
        many => many,
    }
}

/// What the back end writes before it waits for the front end. `persistent` says whether pages are worth keeping mapped.
pub fn offer(shape: &BlockShape, persistent: bool) -> Vec<(String, String)> {
    let pair = |key: &str, value: &dyn ToString| (key.to_string(), value.to_string());
    let mut pairs = vec![
        pair(keys::MAX_RING_PAGE_ORDER, &MAX_PAGE_ORDER),
        pair(keys::FEATURE_FLUSH_CACHE, &u8::from(shape.flush)),
        pair(keys::FEATURE_BARRIER, &0),
        pair(keys::FEATURE_PERSISTENT, &u8::from(persistent)),
    ];
    match indirect_segments(shape) {
        0 => {}
        segments => pairs.push(pair(keys::FEATURE_MAX_INDIRECT_SEGMENTS, &segments)),
    }
    if let (Some(discard), false) = (shape.discard, shape.read_only) {
        pairs.push(pair(keys::FEATURE_DISCARD, &1));
        pairs.push(pair(keys::DISCARD_GRANULARITY, &discard.granularity));
        pairs.push(pair(keys::DISCARD_ALIGNMENT, &discard.alignment));
        pairs.push(pair(keys::DISCARD_SECURE, &0));
    }
    pairs
}

/// What the back end writes with the connected state.
pub fn properties(shape: &BlockShape, removable: bool, cdrom: bool) -> Vec<(String, String)> {
    let mut bits = 0;
    if shape.read_only {
        bits |= info::READONLY;
    }
    if removable {
        bits |= info::REMOVABLE;
    }
    if cdrom {
        bits |= info::CDROM;
    }
    vec![
        (keys::SECTORS.to_string(), shape.sectors.to_string()),
        (keys::INFO.to_string(), bits.to_string()),
        (keys::SECTOR_SIZE.to_string(), shape.sector_size.to_string()),
        (keys::PHYSICAL_SECTOR_SIZE.to_string(), shape.physical_sector_size.to_string()),
    ]
}

/// What a front end wants: checked in form, but the references and the port are still claims.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RingPlan {
    /// Pages of the ring, in order.
    pub references: Vec<GrantRef>,
    /// Its port.
    pub port: Port,
    /// The form of the ring's structures.
    pub width: Width,
    /// The front end's pages may stay mapped.
    pub persistent: bool,
}

/// The keys that may matter first; [`further`] names the rest once these are known.
pub const FRONT: [&str; 6] = [
    keys::RING_PAGE_ORDER,
    keys::RING_REF,
    keys::EVENT_CHANNEL,
    keys::PROTOCOL,
    keys::MULTI_QUEUE_NUM_QUEUES,
    keys::FEATURE_PERSISTENT,
];

/// The keys `ring-ref0` and so on that belong to a page order; none without one.
pub fn further(first: &Values) -> Result<Vec<String>, BadKey> {
    Ok(match order(first)? {
        None => Vec::new(),
        Some(order) => (0..1u32 << order).map(|page| format!("{}{page}", keys::RING_REF)).collect(),
    })
}

fn order(values: &Values) -> Result<Option<u32>, BadKey> {
    match values.number(keys::RING_PAGE_ORDER)? {
        Some(order) if order > MAX_PAGE_ORDER => Err(values.bad(keys::RING_PAGE_ORDER, "at most 4")),
        order => Ok(order),
    }
}

/// Reads what the front end wrote.
pub fn plan(values: &Values) -> Result<RingPlan, BadKey> {
    if values.number(keys::MULTI_QUEUE_NUM_QUEUES)?.is_some_and(|queues| queues != 1) {
        return Err(values.bad(keys::MULTI_QUEUE_NUM_QUEUES, "1, as none was offered"));
    }
    let names = further(values)?;
    let references = if names.is_empty() {
        vec![GrantRef(values.required(keys::RING_REF)?)]
    } else if names.len() == 1 && values.text(keys::RING_REF).is_some() {
        // One page may be named either way.
        vec![GrantRef(values.required(keys::RING_REF)?)]
    } else {
        names.iter().map(|name| values.required(name).map(GrantRef)).collect::<Result<_, _>>()?
    };
    let port = Port(values.required(keys::EVENT_CHANNEL)?);
    if port.is_none() {
        return Err(values.bad(keys::EVENT_CHANNEL, "a port, which 0 is not"));
    }
    let width = match values.text(keys::PROTOCOL) {
        None => Width::W64,
        Some(name) => core::str::from_utf8(name)
            .ok()
            .and_then(width)
            .ok_or_else(|| values.bad(keys::PROTOCOL, "x86_64-abi or x86_32-abi"))?,
    };
    let persistent = values.number(keys::FEATURE_PERSISTENT)? == Some(1);
    Ok(RingPlan { references, port, width, persistent })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, &str)]) -> Values {
        let mut values = Values::default();
        for (key, value) in pairs {
            values.insert(key, value.as_bytes().to_vec());
        }
        values
    }

    #[test]
    fn one_page() {
        let got =
            plan(&values(&[("ring-ref", "8"), ("event-channel", "5"), ("protocol", "x86_32-abi")])).unwrap();
        let (port, width) = (Port(5), Width::W32);
        assert_eq!(got, RingPlan { references: vec![GrantRef(8)], port, width, persistent: false });
        let got = plan(&values(&[("ring-ref", "8\0"), ("event-channel", "5")])).unwrap();
        assert_eq!(got.width, Width::W64);
    }

    #[test]
    fn several_pages() {
        let got = plan(&values(&[
            ("ring-page-order", "1"),
            ("ring-ref0", "8"),
            ("ring-ref1", "9"),
            ("event-channel", "5"),
        ]));
        assert_eq!(got.unwrap().references, [GrantRef(8), GrantRef(9)]);
    }

    #[test]
    fn bad_keys_are_named() {
        for (pairs, text) in [
            (&[("ring-ref", "8")][..], "key event-channel is missing; it should be a decimal number"),
            (&[("event-channel", "5")], "key ring-ref is missing; it should be a decimal number"),
            (&[("ring-ref", "-1")], "key ring-ref is \"-1\", not a decimal number"),
            (&[("ring-ref", "4294967296")], "key ring-ref is \"4294967296\", not a decimal number"),
            (
                &[("ring-ref", "1"), ("event-channel", "0")],
                "key event-channel is \"0\", not a port, which 0 is not",
            ),
            (&[("ring-page-order", "5")], "key ring-page-order is \"5\", not at most 4"),
            (
                &[("ring-page-order", "1"), ("ring-ref0", "1")],
                "key ring-ref1 is missing; it should be a decimal number",
            ),
            (
                &[("ring-ref", "1"), ("event-channel", "1"), ("protocol", "vax-abi")],
                "key protocol is \"vax-abi\", not x86_64-abi or x86_32-abi",
            ),
            (
                &[("multi-queue-num-queues", "2"), ("ring-ref", "1"), ("event-channel", "1")],
                "key multi-queue-num-queues is \"2\", not 1, as none was offered",
            ),
        ] {
            assert_eq!(plan(&values(pairs)).unwrap_err().to_string(), text);
        }
    }
}
