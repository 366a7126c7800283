//! An event as a line for people.

use super::event::{Agreed, Event, More, Operation, Seen, Sums};
use super::reasons;
use crate::bench::report::text::clean;

/// The event in lines; the first one begins with its time in seconds. What strangers wrote cannot move a cursor.
pub(super) fn lines(event: &Event) -> Vec<String> {
    let t = format!("{:>9.3}", event.t);
    let first = |text: String| clean(&format!("{t}  {text}"));
    match (&event.operation, &event.more, &event.packet) {
        (Operation::State, ..) => vec![first(format!("── {:<16} {}", event.stage, reasons::stage(event.stage)))],
        (_, More::Start { version, wrap, .. }, _) => {
            vec![first(format!("minivpn {version}, control channel protection: {wrap}"))]
        }
        (_, More::Resolve { host, addresses, why }, _) => vec![first(match why {
            Some(why) => format!("no address for {host}: {why}"),
            None => format!("{host} is {}", addresses.join(", ")),
        })],
        (_, More::Attempt { remote, local }, _) => {
            vec![first(format!("attempt {}: {remote} from {local}", event.attempt))]
        }
        (_, More::Reason { why, .. }, Some(packet)) => {
            vec![first(format!("✗ {}", of_packet(packet, event))), clean(&format!("{:13}ignored: {why}", ""))]
        }
        (_, More::Reason { why, .. }, None) => vec![first(format!("! {why}"))],
        (_, More::Failure { reason, why, exit_status }, _) => {
            vec![
                first(format!("✗ failed at {}: {reason} (exit status {exit_status})", event.stage)),
                clean(&format!("{:13}{why}", "")),
            ]
        }
        (_, More::Established(agreed), _) => established(agreed, first),
        (_, More::End(sums), _) => vec![first(end(sums))],
        (Operation::PacketOut, _, Some(packet)) => vec![first(format!("→ {}", of_packet(packet, event)))],
        (_, _, Some(packet)) => vec![first(format!("← {}", of_packet(packet, event)))],
        (_, More::None {}, None) => Vec::new(),
    }
}

/// The tags, with those that follow each other counted.
pub(super) fn tags(event: &Event) -> Vec<String> {
    let same = event.tags.chunk_by(|one, next| one == next);
    let counted = same.filter_map(|tags| match tags {
        [tag] => Some((*tag).to_owned()),
        [tag, ..] => Some(format!("{tag} ×{}", tags.len())),
        [] => None,
    });
    counted.collect()
}

fn of_packet(packet: &Seen, event: &Event) -> String {
    let mut text = format!("{:<30}", packet.opcode);
    if let Some(key) = packet.key_id {
        text += &format!(" key {key}");
    }
    if let Some(id) = packet.id {
        text += &format!(" id {id}");
    }
    if let Some(acks) = &packet.acks {
        let acks: Vec<String> = acks.iter().map(u32::to_string).collect();
        text += &format!(" acks {}", acks.join(","));
    }
    text += &format!(" {} bytes", packet.datagram_size);
    if let Some(attempts) = packet.send_attempts.filter(|attempts| *attempts > 1) {
        text += &format!(" (sent for the {} time)", ordinal(attempts));
    }
    if packet.duplicate {
        text += " (came before)";
    }
    if !event.tags.is_empty() {
        text += &format!(": {}", tags(event).join(", "));
    }
    text
}

fn established(agreed: &Agreed, first: impl Fn(String) -> String) -> Vec<String> {
    let Agreed { handshake_seconds, tls, cipher, peer_subject, peer_id, pushed, auth_token, .. } = agreed;
    let mut lines = vec![first(format!("✓ established after {handshake_seconds:.3} s: {tls}, data {cipher}"))];
    let mut more = |text: String| lines.push(clean(&format!("{:13}{text}", "")));
    more(format!("server {peer_subject}"));
    if let Some(id) = peer_id {
        more(format!("peer-id {id}"));
    }
    pushed.iter().for_each(|option| more(format!("pushed {option}")));
    if *auth_token {
        more("pushed auth-token …".to_owned());
    }
    lines
}

fn end(sums: &Sums) -> String {
    let Sums { packets_in, packets_out, packets_dropped, retransmissions, not_shown, .. } = sums;
    let told = match sums.farewell {
        Some("control_channel") => "; the server was told that we leave",
        Some(_) => "; the server was told in the data channel that we leave",
        None => "",
    };
    let hidden = if *not_shown > 0 { format!(", {not_shown} not shown") } else { String::new() };
    format!(
        "{packets_out} packets out ({retransmissions} repeated), {packets_in} in, {packets_dropped} ignored{hidden}{told}"
    )
}

fn ordinal(number: u32) -> String {
    let ending = match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{number}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use controlplane::trace::Stage;

    fn event(operation: Operation, more: More) -> Event {
        Event::plain(operation, Stage::Active, 1.25, 1, more)
    }

    #[test]
    fn a_failure_says_where_it_stopped_and_why() {
        let more = More::Failure { reason: "auth_failed", why: "AUTH_FAILED: no".into(), exit_status: 3 };
        let lines = lines(&event(Operation::Failure, more));
        assert!(lines[0].contains("1.250") && lines[0].contains("S_ACTIVE") && lines[0].contains("exit status 3"));
        assert!(lines[1].contains("AUTH_FAILED: no"));
    }

    #[test]
    fn what_a_server_pushes_cannot_move_the_cursor() {
        let agreed = Agreed {
            handshake_seconds: 0.1,
            tls: String::new(),
            cipher: "AES-256-GCM",
            peer_subject: "CN=\u{1b}[2J".into(),
            peer_id: Some(0),
            pushed: vec!["route\u{202e}".into()],
            auth_token: true,
            cc_exit: true,
        };
        let text = lines(&event(Operation::Established, More::Established(Box::new(agreed)))).join("\n");
        assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'));
        assert!(text.contains("pushed auth-token …"));
    }

    #[test]
    fn tags_that_repeat_themselves_are_counted() {
        let tags = vec!["server_hello", "encrypted", "encrypted", "encrypted", "key_message", "encrypted"];
        let said = super::tags(&Event { tags, ..event(Operation::PacketIn, More::None {}) });
        assert_eq!(said, ["server_hello", "encrypted ×3", "key_message", "encrypted"]);
    }

    #[test]
    fn numbers_are_counted_as_people_do() {
        let said: Vec<String> = [1, 2, 3, 4, 11, 12, 13, 21, 102, 111].map(ordinal).to_vec();
        assert_eq!(said, ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "111th"]);
    }
}
