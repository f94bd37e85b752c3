//! A terminal of its own for machines that no tool is connected to: a person at a keyboard on one side, the control protocol on the other.
//!
//! It asks as a tool on a host does, and holds no other right: keys become requests, replies and console bytes become text. It shows the
//! console of the first domain until Ctrl-] is typed, then dom0's [shell](super), which here also has `console DOMAIN`.
//!
//! It says no [`Request::Hello`]: dom0 waits for those who do until they watch the console of a domain that ends, and this one
//! watches one console.

use crate::control::frame::Decoder;
use crate::control::request::DomainName;
use crate::control::{Channel, Down, Event, Reply, Request, Up};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// The one channel.
const CHANNEL: Channel = 0;
/// What the channel may send at first; each byte that is shown allows another.
const CREDIT: u32 = 64 * 1024;
/// Bytes of a line.
const LINE: usize = 1024;
/// Leaves a console: Ctrl-].
const LEAVE: u8 = 0x1d;
const PROMPT: &str = "trunnion> ";

/// Where typed bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Into the line.
    Shell,
    /// Nowhere before the answer to this request: the line is being carried out.
    Waits(u32),
    /// Nowhere before this request for a console has been answered.
    Attaches(u32),
    /// To the domain.
    Console,
}

/// The terminal, without its keyboard and its screen.
#[derive(Debug)]
pub struct Terminal {
    decoder: Decoder,
    /// Frames for dom0.
    frames: VecDeque<u8>,
    /// Text for the person.
    text: Vec<u8>,
    mode: Mode,
    line: Vec<u8>,
    /// Number of the last request.
    number: u32,
    /// Whose console it shows, or showed last.
    shown: DomainName,
    /// A console has been shown.
    began: bool,
    /// The last byte was a carriage return; a line feed behind it belongs to it.
    returned: bool,
}

impl Default for Terminal {
    fn default() -> Self {
        Self {
            decoder: Decoder::new(),
            frames: VecDeque::new(),
            text: Vec::new(),
            mode: Mode::Shell,
            line: Vec::new(),
            number: 0,
            shown: DomainName::Id(0),
            began: false,
            returned: false,
        }
    }
}

impl Terminal {
    /// Whether typed bytes are taken now. While a line is carried out they have to wait.
    pub fn listens(&self) -> bool {
        matches!(self.mode, Mode::Shell | Mode::Console)
    }

    /// Bytes for dom0, as many as fit.
    pub fn take(&mut self, into: &mut [u8]) -> usize {
        let count = into.len().min(self.frames.len());
        for (to, from) in into.iter_mut().zip(self.frames.drain(..count)) {
            *to = from;
        }
        count
    }

    /// What is to be shown.
    pub fn text(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.text)
    }

    /// A typed byte.
    pub fn key(&mut self, byte: u8) {
        match self.mode {
            Mode::Console if byte == LEAVE => self.leave(),
            Mode::Console => self.send(&Down::Console { channel: CHANNEL, data: [byte].into() }),
            Mode::Shell => self.edit(byte),
            Mode::Waits(_) | Mode::Attaches(_) => {}
        }
    }

    fn edit(&mut self, byte: u8) {
        let after_return = core::mem::replace(&mut self.returned, byte == b'\r');
        match byte {
            b'\n' if after_return => {}
            b'\r' | b'\n' => {
                self.say("\r\n");
                self.enter();
            }
            // Backspace and delete.
            8 | 0x7f => {
                let erased = if self.line.pop().is_some() { "\x08 \x08" } else { "" };
                self.say(erased);
            }
            // Ctrl-C and Ctrl-U drop the line.
            3 | 0x15 => {
                self.line.clear();
                self.say("\r\n");
                self.say(PROMPT);
            }
            b' '..=b'~' if self.line.len() < LINE => {
                self.line.push(byte);
                self.text.push(byte);
            }
            _ => {}
        }
    }

    /// Carries out the line.
    fn enter(&mut self) {
        let line = core::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line).into_owned();
        match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            [] => self.say(PROMPT),
            ["console", domain] => self.attach(DomainName::parse(domain), domain),
            words => {
                if words == ["poweroff"] {
                    self.say("The platform ends; behind the word EXIT the machine can be switched off.\r\n");
                }
                self.mode = Mode::Waits(self.ask(Request::Shell { line }));
            }
        }
    }

    fn leave(&mut self) {
        self.ask(Request::ConsoleDetach { channel: CHANNEL });
        self.mode = Mode::Shell;
        self.say("\r\n");
        self.say(PROMPT);
    }

    fn attach(&mut self, domain: DomainName, name: &str) {
        // What was printed before is shown once.
        let replay = !core::mem::replace(&mut self.began, true);
        self.shown = domain.clone();
        let request = Request::ConsoleAttach { domain, channel: CHANNEL, replay, hold: true };
        self.mode = Mode::Attaches(self.ask(request));
        self.say(&format!("This is the console of {name}; Ctrl-] leads to dom0's shell.\r\n"));
    }

    /// Bytes from dom0.
    pub fn hear(&mut self, bytes: &[u8]) {
        self.decoder.push(bytes);
        while let Some(payload) = self.decoder.next_frame() {
            match Up::from_payload(&payload) {
                Ok(Up::Reply { id, result }) => self.answer(id, result),
                Ok(Up::Event(event)) => self.event(event),
                Ok(Up::Console { channel: CHANNEL, data }) => {
                    self.text.extend_from_slice(&data);
                    self.send(&Down::Credit { channel: CHANNEL, bytes: data.len() as u32 });
                }
                // dom0 and its terminal are of one version, and nothing else was asked for.
                Ok(Up::Console { .. } | Up::Unknown) | Err(_) => {}
            }
        }
    }

    fn answer(&mut self, id: u32, result: Result<Reply, crate::control::Failure>) {
        match (self.mode, result) {
            (Mode::Attaches(asked), Ok(_)) if asked == id => {
                self.mode = Mode::Console;
                self.send(&Down::Credit { channel: CHANNEL, bytes: CREDIT });
                return;
            }
            (Mode::Waits(asked), Ok(Reply::Text(text))) if asked == id => self.lines(&text),
            (Mode::Waits(asked), Ok(_)) if asked == id => {}
            (Mode::Waits(asked) | Mode::Attaches(asked), Err(failure)) if asked == id => {
                self.lines(&format!("failed: {}\n", failure.message));
            }
            _ => return,
        }
        self.mode = Mode::Shell;
        self.say(PROMPT);
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Ready { .. } => {
                self.say(
                    "\r\nTrunnion: `help` lists what can be typed, `console DOMAIN` shows a console.\r\n",
                );
                self.say(PROMPT);
            }
            Event::DomainCreated { domid, name, .. } if !self.began && self.line.is_empty() => {
                self.say("\r\n");
                self.attach(DomainName::Id(domid), &name);
            }
            // Its last byte has been sent before.
            Event::DomainEnded { domid, name, .. }
                if self.mode == Mode::Console
                    && (self.shown == DomainName::Id(domid) || self.shown == DomainName::parse(&name)) =>
            {
                self.say("\r\nThe domain of this console has ended.");
                self.leave();
            }
            Event::CreateFailed { name, failure } => {
                self.lines(&format!("\ndomain {name} could not be started: {}\n", failure.message));
            }
            Event::Text(bytes) => self.lines(&String::from_utf8_lossy(&bytes)),
            // dom0's log is on the same line already.
            _ => {}
        }
    }

    fn ask(&mut self, request: Request) -> u32 {
        self.number = self.number.wrapping_add(1);
        self.send(&Down::Request { id: self.number, request });
        self.number
    }

    fn send(&mut self, message: &Down) {
        // All of them are small.
        self.frames.extend(message.to_frame().unwrap_or_default());
    }

    fn say(&mut self, text: &str) {
        self.text.extend_from_slice(text.as_bytes());
    }

    /// Text with a carriage return before each line feed, as a serial terminal wants it.
    fn lines(&mut self, text: &str) {
        for line in text.split_inclusive('\n') {
            match line.strip_suffix('\n') {
                Some(line) => {
                    self.say(line);
                    self.say("\r\n");
                }
                None => self.say(line),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Code, Failure};
    use alloc::vec;

    /// What it says to dom0.
    fn asked(terminal: &mut Terminal) -> Vec<Down> {
        let mut bytes = vec![0; 4096];
        let count = terminal.take(&mut bytes);
        let mut decoder = Decoder::new();
        decoder.push(&bytes[..count]);
        core::iter::from_fn(|| decoder.next_frame())
            .map(|frame| Down::from_payload(&frame).unwrap())
            .collect()
    }

    fn shown(terminal: &mut Terminal) -> String {
        String::from_utf8(terminal.text()).unwrap()
    }

    fn up(terminal: &mut Terminal, message: &Up) {
        terminal.hear(&message.to_frame().unwrap());
    }

    fn typed(terminal: &mut Terminal, text: &str) {
        text.bytes().for_each(|byte| terminal.key(byte));
    }

    fn ready() -> Terminal {
        let mut terminal = Terminal::default();
        assert!(asked(&mut terminal).is_empty(), "it does not introduce itself");
        up(&mut terminal, &Up::Event(Event::Ready { hypervisor_ready_ns: 1, dom0_ready_ns: 2 }));
        assert!(shown(&mut terminal).ends_with("trunnion> "));
        terminal
    }

    #[test]
    fn a_line_is_carried_out_and_its_answer_shown() {
        let mut terminal = ready();
        typed(&mut terminal, "lisx\x7ft\r\n");
        assert_eq!(shown(&mut terminal), "lisx\x08 \x08t\r\n");
        let [Down::Request { id, request: Request::Shell { line } }] = &asked(&mut terminal)[..] else {
            panic!("one line")
        };
        assert_eq!(line, "list");
        assert!(!terminal.listens());
        up(&mut terminal, &Up::Reply { id: *id, result: Ok(Reply::Text("a\nb\n".into())) });
        assert_eq!(shown(&mut terminal), "a\r\nb\r\ntrunnion> ");
        typed(&mut terminal, "\r");
        assert_eq!(shown(&mut terminal), "\r\ntrunnion> ");
        assert!(asked(&mut terminal).is_empty(), "an empty line is nothing");
    }

    #[test]
    fn a_failure_is_told() {
        let mut terminal = ready();
        typed(&mut terminal, "nonsense\n");
        let [Down::Request { id, .. }] = asked(&mut terminal)[..] else { panic!("one line") };
        let result = Err(Failure::new(Code::UnknownVerb, "no such verb"));
        up(&mut terminal, &Up::Reply { id: id + 7, result: result.clone() });
        assert!(!terminal.listens(), "an answer to somebody else");
        up(&mut terminal, &Up::Reply { id, result });
        assert!(shown(&mut terminal).ends_with("failed: no such verb\r\ntrunnion> "));
    }

    #[test]
    fn the_first_domain_is_shown_until_it_is_left_or_ends() {
        let mut terminal = ready();
        let created = Event::DomainCreated { domid: 1, name: "one".into(), create_begin_ns: 3 };
        up(&mut terminal, &Up::Event(created.clone()));
        assert!(shown(&mut terminal).contains("the console of one; Ctrl-]"));
        let [Down::Request { id, request: Request::ConsoleAttach { replay: true, hold: true, .. } }] =
            asked(&mut terminal)[..]
        else {
            panic!("its console")
        };
        up(&mut terminal, &Up::Reply { id, result: Ok(Reply::Done) });
        assert_eq!(asked(&mut terminal), [Down::Credit { channel: CHANNEL, bytes: CREDIT }]);
        up(&mut terminal, &Up::Console { channel: CHANNEL, data: b"login: ".to_vec() });
        assert_eq!(shown(&mut terminal), "login: ");
        typed(&mut terminal, "x");
        assert_eq!(
            asked(&mut terminal),
            [
                Down::Credit { channel: CHANNEL, bytes: 7 },
                Down::Console { channel: CHANNEL, data: b"x".to_vec() }
            ]
        );
        typed(&mut terminal, "\x1dconsole one\n");
        assert_eq!(shown(&mut terminal).matches("trunnion> ").count(), 1);
        let [
            Down::Request { request: Request::ConsoleDetach { .. }, .. },
            Down::Request { id, request: Request::ConsoleAttach { replay: false, .. } },
        ] = asked(&mut terminal)[..]
        else {
            panic!("left, and shown again")
        };
        up(&mut terminal, &Up::Reply { id, result: Ok(Reply::Done) });
        for (domid, name) in [(2, "two"), (1, "one")] {
            let (outcome, detail) = (crate::control::summary::Outcome::Poweroff, String::new());
            let ended = Event::DomainEnded {
                domid,
                name: name.into(),
                outcome,
                detail,
                ended_ns: 4,
                restarting: false,
            };
            up(&mut terminal, &Up::Event(ended));
            let text = shown(&mut terminal);
            assert_eq!(text.ends_with("has ended.\r\ntrunnion> "), name == "one", "{text}");
        }
        up(&mut terminal, &Up::Event(created));
        assert!(terminal.listens() && shown(&mut terminal).is_empty(), "the person is in the shell");
    }

    #[test]
    fn keys_without_meaning_do_nothing() {
        let mut terminal = ready();
        typed(&mut terminal, "\x1b\x00\x7f\x1d");
        (0..2000).for_each(|_| terminal.key(b'a'));
        assert_eq!(shown(&mut terminal).len(), LINE);
        terminal.key(3);
        assert_eq!(shown(&mut terminal), "\r\ntrunnion> ");
        terminal.hear(&[0x54, 0x7e, 1, 2, 3]);
        assert!(terminal.listens());
    }
}
