//! What the two halves tell each other in the store.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use trunnion_protocol::id::{GrantRef, Port};
use trunnion_protocol::netif::{QUEUE, keys};

pub use crate::values::{BadKey, Values};

/// What the back end writes before it waits for the front end.
pub fn offer(queues: u32) -> Vec<(String, String)> {
    let pair = |key: &str, value: u32| (key.to_string(), value.to_string());
    vec![
        pair(keys::FEATURE_RX_COPY, 1),
        pair(keys::FEATURE_RX_FLIP, 0),
        pair(keys::FEATURE_SG, 1),
        pair(keys::FEATURE_GSO_TCPV4, 1),
        pair(keys::FEATURE_GSO_TCPV6, 1),
        pair(keys::FEATURE_IPV6_CSUM_OFFLOAD, 1),
        pair(keys::FEATURE_MULTICAST_CONTROL, 1),
        pair(keys::FEATURE_DYNAMIC_MULTICAST_CONTROL, 1),
        pair(keys::FEATURE_SPLIT_EVENT_CHANNELS, 1),
        pair(keys::MULTI_QUEUE_MAX_QUEUES, queues.max(1)),
    ]
}

/// What the guest can receive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features {
    /// Packets of several buffers.
    pub sg: bool,
    /// Large TCP packets over IPv4.
    pub gso_v4: bool,
    /// Large TCP packets over IPv6.
    pub gso_v6: bool,
    /// Blank checksums over IPv4.
    pub checksum_v4: bool,
    /// Blank checksums over IPv6.
    pub checksum_v6: bool,
    /// Only the groups that it asks for.
    pub multicast_control: bool,
}

/// The ports of a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortPlan {
    /// One for both rings.
    One(Port),
    /// One for the ring on which the guest sends, one for that on which it receives.
    Two(Port, Port),
}

/// One queue of a front end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueuePlan {
    /// The ring on which it sends.
    pub tx: GrantRef,
    /// The ring on which it receives.
    pub rx: GrantRef,
    /// Its ports.
    pub port: PortPlan,
}

/// What a front end wants: checked in form, but references and ports are still claims.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkPlan {
    /// At least one.
    pub queues: Vec<QueuePlan>,
    /// What it can receive.
    pub features: Features,
}

/// The keys that say what the guest can receive, and how many queues there are.
pub const FRONT: [&str; 8] = [
    keys::REQUEST_RX_COPY,
    keys::FEATURE_SG,
    keys::FEATURE_GSO_TCPV4,
    keys::FEATURE_GSO_TCPV6,
    keys::FEATURE_NO_CSUM_OFFLOAD,
    keys::FEATURE_IPV6_CSUM_OFFLOAD,
    keys::REQUEST_MULTICAST_CONTROL,
    keys::MULTI_QUEUE_NUM_QUEUES,
];

/// The keys of one queue.
pub const OF_QUEUE: [&str; 5] = [
    keys::TX_RING_REF,
    keys::RX_RING_REF,
    keys::EVENT_CHANNEL,
    keys::EVENT_CHANNEL_TX,
    keys::EVENT_CHANNEL_RX,
];

/// The paths of the queues' keys below the front end's directory, once [`FRONT`] is read.
pub fn queues(first: &Values, most: u32) -> Result<Vec<String>, BadKey> {
    Ok(match count(first, most)? {
        // One queue is written without a folder of its own.
        1 => vec![String::new()],
        count => (0..count).map(|queue| format!("{QUEUE}{queue}/")).collect(),
    })
}

fn count(values: &Values, most: u32) -> Result<u32, BadKey> {
    match values.number(keys::MULTI_QUEUE_NUM_QUEUES)? {
        None => Ok(1),
        Some(count) if count >= 1 && count <= most.max(1) => Ok(count),
        Some(_) => Err(values.bad(keys::MULTI_QUEUE_NUM_QUEUES, "between 1 and what was offered")),
    }
}

/// Reads what the front end wrote.
pub fn plan(values: &Values, most: u32) -> Result<LinkPlan, BadKey> {
    let flag = |key: &str| values.number(key).map(|value| value.unwrap_or(0) != 0);
    if !flag(keys::REQUEST_RX_COPY)? {
        return Err(values.bad(keys::REQUEST_RX_COPY, "1, since pages are copied and not given away"));
    }
    let sg = flag(keys::FEATURE_SG)?;
    let features = Features {
        sg,
        // A large packet needs more than one buffer.
        gso_v4: flag(keys::FEATURE_GSO_TCPV4)? && sg,
        gso_v6: flag(keys::FEATURE_GSO_TCPV6)? && sg,
        checksum_v4: !flag(keys::FEATURE_NO_CSUM_OFFLOAD)?,
        checksum_v6: flag(keys::FEATURE_IPV6_CSUM_OFFLOAD)?,
        multicast_control: flag(keys::REQUEST_MULTICAST_CONTROL)?,
    };
    let queues =
        queues(values, most)?.iter().map(|prefix| queue(values, prefix)).collect::<Result<_, _>>()?;
    Ok(LinkPlan { queues, features })
}

fn queue(values: &Values, prefix: &str) -> Result<QueuePlan, BadKey> {
    let required = |key: &str| values.required(&format!("{prefix}{key}"));
    let port = |key: &str| match required(key)? {
        0 => Err(values.bad(&format!("{prefix}{key}"), "a port, which 0 is not")),
        port => Ok(Port(port)),
    };
    let split = values.text(&format!("{prefix}{}", keys::EVENT_CHANNEL_TX)).is_some();
    Ok(QueuePlan {
        tx: GrantRef(required(keys::TX_RING_REF)?),
        rx: GrantRef(required(keys::RX_RING_REF)?),
        port: if split {
            PortPlan::Two(port(keys::EVENT_CHANNEL_TX)?, port(keys::EVENT_CHANNEL_RX)?)
        } else {
            PortPlan::One(port(keys::EVENT_CHANNEL)?)
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, &str)]) -> Values {
        let mut values = Values::default();
        values.insert("request-rx-copy", b"1".to_vec());
        for (key, value) in pairs {
            values.insert(key, value.as_bytes().to_vec());
        }
        values
    }

    #[test]
    fn what_linux_writes() {
        let plan = plan(
            &values(&[
                ("tx-ring-ref", "8"),
                ("rx-ring-ref", "9"),
                ("event-channel-tx", "5"),
                ("event-channel-rx", "6"),
                ("feature-sg", "1"),
                ("feature-gso-tcpv4", "1"),
                ("feature-gso-tcpv6", "1"),
                ("feature-ipv6-csum-offload", "1"),
                ("multi-queue-num-queues", "1"),
            ]),
            4,
        );
        let plan = plan.unwrap();
        let port = PortPlan::Two(Port(5), Port(6));
        assert_eq!(plan.queues, [QueuePlan { tx: GrantRef(8), rx: GrantRef(9), port }]);
        let features = plan.features;
        assert!(features.sg && features.gso_v4 && features.gso_v6 && features.checksum_v4);
        assert!(features.checksum_v6 && !features.multicast_control);
    }

    #[test]
    fn several_queues() {
        let plan = plan(
            &values(&[
                ("multi-queue-num-queues", "2"),
                ("queue-0/tx-ring-ref", "8"),
                ("queue-0/rx-ring-ref", "9"),
                ("queue-0/event-channel", "5"),
                ("queue-1/tx-ring-ref", "10"),
                ("queue-1/rx-ring-ref", "11"),
                ("queue-1/event-channel", "6\0"),
            ]),
            4,
        );
        let port = PortPlan::One(Port(6));
        assert_eq!(plan.unwrap().queues[1], QueuePlan { tx: GrantRef(10), rx: GrantRef(11), port });
    }

    #[test]
    fn bad_keys_are_named() {
        for (pairs, text) in [
            (&[("tx-ring-ref", "8")][..], "key rx-ring-ref is missing; it should be a decimal number"),
            (
                &[("tx-ring-ref", "8"), ("rx-ring-ref", "9"), ("event-channel", "0")],
                "key event-channel is \"0\", not a port, which 0 is not",
            ),
            (
                &[("multi-queue-num-queues", "5")],
                "key multi-queue-num-queues is \"5\", not between 1 and what was offered",
            ),
            (&[("feature-sg", "yes")], "key feature-sg is \"yes\", not a decimal number"),
            (
                &[("multi-queue-num-queues", "2"), ("queue-0/tx-ring-ref", "x")],
                "key queue-0/tx-ring-ref is \"x\", not a decimal number",
            ),
        ] {
            assert_eq!(plan(&values(pairs), 4).unwrap_err().to_string(), text);
        }
        let text =
            "key request-rx-copy is missing; it should be 1, since pages are copied and not given away";
        assert_eq!(plan(&Values::default(), 4).unwrap_err().to_string(), text);
    }
}
