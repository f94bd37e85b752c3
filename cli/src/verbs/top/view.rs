//! The full-screen view: a table of the domains, and of the one that is chosen its exits by kind and its last minutes.

use super::rates::{Rates, Sample};
use crate::failure::{Failure, Result};
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Paragraph, Row, Sparkline, Table};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Looks that are remembered.
const HISTORY: usize = 240;

/// What is on the screen.
#[derive(Default)]
struct Screen {
    rates: Vec<Rates>,
    /// Of each domain, the oldest first.
    history: BTreeMap<(u64, String), VecDeque<Rates>>,
    chosen: usize,
}

/// Shows it until the user leaves, so many looks have been shown, or the platform is gone.
pub(super) fn show(
    delay: Duration,
    looks: Option<u64>,
    mut look: impl FnMut() -> Result<Sample>,
) -> Result<()> {
    let mut before = look()?;
    let mut screen = Screen::default();
    let mut terminal =
        ratatui::try_init().map_err(|e| Failure::usage(format!("the terminal cannot be used: {e}")))?;
    let mut watch = || -> Result<()> {
        let mut left = looks.unwrap_or(u64::MAX);
        let broken = |e: std::io::Error| Failure::usage(format!("the terminal cannot be used: {e}"));
        while left > 0 {
            terminal.draw(|frame| screen.draw(frame)).map_err(broken)?;
            let until = Instant::now() + delay;
            loop {
                let wait = until.saturating_duration_since(Instant::now());
                if !event::poll(wait).map_err(broken)? {
                    break;
                }
                if let Event::Key(key) = event::read().map_err(broken)?
                    && key.kind == KeyEventKind::Press
                {
                    let interrupt = key.code == KeyCode::Char('c') && key.modifiers == KeyModifiers::CONTROL;
                    if interrupt || !screen.key(key.code) {
                        return Ok(());
                    }
                }
                terminal.draw(|frame| screen.draw(frame)).map_err(broken)?;
            }
            let now = look()?;
            screen.add(now.since(&before));
            before = now;
            left -= 1;
        }
        Ok(())
    };
    let outcome = watch();
    ratatui::restore();
    outcome
}

impl Screen {
    fn add(&mut self, rates: Vec<Rates>) {
        let key = |rates: &Rates| (rates.domid, rates.name.clone());
        self.history.retain(|known, _| rates.iter().any(|rates| key(rates) == *known));
        for rates in &rates {
            let history = self.history.entry(key(rates)).or_default();
            if history.len() == HISTORY {
                history.pop_front();
            }
            history.push_back(rates.clone());
        }
        self.chosen = self.chosen.min(rates.len().saturating_sub(1));
        self.rates = rates;
    }

    /// A key; false when the user leaves.
    fn key(&mut self, key: KeyCode) -> bool {
        match key {
            KeyCode::Char('q') | KeyCode::Esc => return false,
            KeyCode::Down | KeyCode::Char('j') => {
                self.chosen = (self.chosen + 1).min(self.rates.len().saturating_sub(1));
            }
            KeyCode::Up | KeyCode::Char('k') => self.chosen = self.chosen.saturating_sub(1),
            _ => {}
        }
        true
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let table = u16::try_from(self.rates.len()).unwrap_or(u16::MAX).saturating_add(3);
        let [top, middle, bottom] =
            Layout::vertical([Constraint::Max(table), Constraint::Min(4), Constraint::Length(1)])
                .areas(frame.area());
        self.table(frame, top);
        let [exits, history] =
            Layout::horizontal([Constraint::Length(34), Constraint::Min(10)]).areas(middle);
        self.exits(frame, exits);
        self.sparklines(frame, history);
        let keys = if self.rates.is_empty() {
            "looking…   q leaves"
        } else {
            "up and down choose a domain   q leaves"
        };
        frame.render_widget(Paragraph::new(keys).style(Style::new().fg(Color::DarkGray)), bottom);
    }

    fn table(&self, frame: &mut Frame<'_>, area: Rect) {
        let head = [
            "Name",
            "ID",
            "CPU %",
            "Exits/s",
            "Events/s",
            "Disk r KiB/s",
            "w",
            "Net rx KiB/s",
            "tx",
            "Pkt/s",
        ];
        let rows = self.rates.iter().enumerate().map(|(index, domain)| {
            let style = if index == self.chosen {
                Style::new().add_modifier(Modifier::REVERSED)
            } else {
                Style::new()
            };
            let numbers = [
                format!("{:.1}", domain.cpu_percent),
                format!("{:.0}", domain.all_exits()),
                format!("{:.0}", domain.events),
                kib(domain.disk_read),
                kib(domain.disk_written),
                kib(domain.net_received),
                kib(domain.net_sent),
                format!("{:.0}", domain.packets),
            ];
            let cells = [domain.name.clone(), domain.domid.to_string()].into_iter().chain(numbers);
            Row::new(cells.collect::<Vec<_>>()).style(style)
        });
        let widths = [Constraint::Min(12), Constraint::Length(4)]
            .into_iter()
            .chain([7, 9, 9, 12, 8, 12, 8, 8].map(Constraint::Length));
        let table = Table::new(rows, widths.collect::<Vec<_>>())
            .header(Row::new(head).style(Style::new().add_modifier(Modifier::BOLD)))
            .block(Block::bordered().title(" Trunnion "));
        frame.render_widget(table, area);
    }

    fn exits(&self, frame: &mut Frame<'_>, area: Rect) {
        let mut exits: Vec<(&String, &f64)> =
            self.rates.get(self.chosen).map(|domain| domain.exits.iter().collect()).unwrap_or_default();
        exits.sort_by(|a, b| b.1.total_cmp(a.1));
        let lines: Vec<Line<'_>> =
            exits.iter().map(|(kind, rate)| Line::from(format!("{kind:<20} {rate:>9.0}"))).collect();
        frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" Exits/s ")), area);
    }

    fn sparklines(&self, frame: &mut Frame<'_>, area: Rect) {
        let history = self
            .rates
            .get(self.chosen)
            .and_then(|domain| self.history.get(&(domain.domid, domain.name.clone())));
        type Measure = (&'static str, fn(&Rates) -> f64, Color);
        let measures: [Measure; 4] = [
            ("CPU %", |rates| rates.cpu_percent, Color::Green),
            ("Exits/s", Rates::all_exits, Color::Yellow),
            ("Disk KiB/s", |rates| (rates.disk_read + rates.disk_written) / 1024.0, Color::Blue),
            ("Net KiB/s", |rates| (rates.net_received + rates.net_sent) / 1024.0, Color::Magenta),
        ];
        let areas = Layout::vertical([Constraint::Fill(1); 4]).split(area);
        for ((name, measure, colour), area) in measures.into_iter().zip(areas.iter()) {
            let width = usize::from(area.width.saturating_sub(2));
            let values: Vec<u64> =
                history.into_iter().flatten().map(|rates| measure(rates).max(0.0) as u64).collect();
            let most = values.iter().max().copied().unwrap_or_default();
            let shown = values.get(values.len().saturating_sub(width)..).unwrap_or_default();
            let line = Sparkline::default()
                .data(shown)
                .style(Style::new().fg(colour))
                .block(Block::bordered().title(format!(" {name}, at most {most} ")));
            frame.render_widget(line, *area);
        }
    }
}

fn kib(bytes: f64) -> String {
    format!("{:.0}", bytes / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::super::rates::tests::sample;
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    #[test]
    fn the_screen_shows_the_chosen_domain() {
        let mut screen = Screen::default();
        let mut terminal = Terminal::new(TestBackend::new(100, 24)).unwrap();
        let text = |terminal: &Terminal<TestBackend>| terminal.backend().to_string();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        assert!(text(&terminal).contains("looking"));
        for second in 1..300 {
            screen.add(sample(second, second * 100).since(&sample(second - 1, (second - 1) * 100)));
        }
        assert_eq!(screen.history[&(1, "a".to_string())].len(), HISTORY);
        assert!(screen.key(KeyCode::Down));
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        let shown = text(&terminal);
        for words in ["Domain-0", "hypercall", "CPU %, at most 10", "Net KiB/s, at most 200"] {
            assert!(shown.contains(words), "{words}:\n{shown}");
        }
        assert!(screen.key(KeyCode::Up) && !screen.key(KeyCode::Char('q')));
    }
}
