//! The live view: who moves how much, and limits on it. One more client of the same session as
//! the command line.
//!
//! | thread | what |
//! |---|---|
//! | main | `app`: state, keys; `view`: the screen |
//! | `sampler` | measures, once a second |
//! | `limiter` | holds the session and its limits |
//! | input, signals, probe | wait for what they are called |

mod app;
mod details;
mod limiter;
mod model;
mod people;
mod sampler;
mod terminal;
mod view;

use std::{
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use chadthrottle_core::{Error, Host, Result};
use ratatui::crossterm::event;
use rustix::event::{PollFd, PollFlags, poll};

use crate::{
    args::RunArgs,
    exit::{Exit, Failure},
    log,
    probe::look_at_all,
    run::signals::Signals,
};
use app::{App, Effect};
use model::{Ask, Message, Order, Probed};
use terminal::Screen;

/// Shows the view until the user quits; then lifts every limit.
pub(crate) fn open(args: &RunArgs) -> Result<Exit, Failure> {
    terminal::check()?;
    let host = Host::detect()?;
    let signals = Signals::catch()?;
    let (sender, messages) = channel();
    let threads = Threads::start(&host, &sender, signals)?;
    let outcome = show(args, &messages, &sender, &threads);
    // The terminal is given back; what was logged meanwhile is shown no more.
    log::release();
    let finished = threads.finish();
    outcome?;
    finished?;
    Ok(Exit::Done)
}

/// Draws, and does what the messages ask for, until the end.
fn show(
    args: &RunArgs,
    messages: &Receiver<Message>,
    sender: &Sender<Message>,
    threads: &Threads,
) -> Result<()> {
    let mut app = App::new(args.backend.0);
    let theme = view::Theme::new(terminal::has_color());
    let lines = log::capture();
    let mut screen = Screen::open()?;
    wait_for_input(sender)?;
    loop {
        screen
            .terminal
            .draw(|frame| view::draw(frame, &mut app, theme))
            .map_err(|error| Error::io("draw on", "the terminal", error))?;
        let Ok(first) = messages.recv() else { return Ok(()) };
        // What came meanwhile is one frame.
        for message in std::iter::once(first).chain(messages.try_iter()) {
            for effect in app.take(message) {
                match effect {
                    Effect::Quit => return Ok(()),
                    Effect::Order(order) => threads.order(order),
                    Effect::Ask(ask) => threads.ask(ask),
                    Effect::Probe => probe(sender)?,
                }
            }
        }
        for line in lines.try_iter() {
            app.logged(&line);
        }
    }
}

/// The threads that work while the view is open.
struct Threads {
    orders: Sender<Order>,
    asks: Sender<Ask>,
    limiter: thread::JoinHandle<Result<()>>,
    sampler: thread::JoinHandle<()>,
}

impl Threads {
    fn start(host: &Host, view: &Sender<Message>, signals: Signals) -> Result<Self> {
        let (orders, ordered) = channel();
        let (asks, asked) = channel();
        let (for_sampler, to_view) = (host.clone(), view.clone());
        let sampler = spawn("sampler", move || {
            sampler::sample(&for_sampler, &asked, &to_view);
        })?;
        let (for_limiter, to_view) = (host.clone(), view.clone());
        let limiter = spawn("limiter", move || limiter::hold(for_limiter, &ordered, &to_view))?;
        let to_view = view.clone();
        spawn("signals", move || wait_for_signals(signals, &to_view))?;
        Ok(Self { orders, asks, limiter, sampler })
    }

    /// A thread that has ended says so by its result.
    fn order(&self, order: Order) {
        self.orders.send(order).unwrap_or_default();
    }

    fn ask(&self, ask: Ask) {
        self.asks.send(ask).unwrap_or_default();
    }

    /// Lifts the limits and stops counting; a panic goes on here.
    fn finish(self) -> Result<()> {
        drop((self.orders, self.asks));
        let finished =
            self.limiter.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        self.sampler.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        finished
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<thread::JoinHandle<T>> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(work);
    thread.map_err(|error| Error::io("start a thread for", name, error))
}

/// Ends with the process.
fn wait_for_input(view: &Sender<Message>) -> Result<()> {
    let view = view.clone();
    spawn("input", move || {
        loop {
            // A terminal that is gone ends the view.
            let message = event::read().map_or(Message::Signal, Message::Input);
            let is_last = matches!(message, Message::Signal);
            if view.send(message).is_err() || is_last {
                return;
            }
        }
    })
    .map(drop)
}

/// Ends with the process.
fn wait_for_signals(mut signals: Signals, view: &Sender<Message>) {
    loop {
        let mut fds = [PollFd::from_borrowed_fd(signals.fd(), PollFlags::IN)];
        if poll(&mut fds, None).is_ok()
            && signals.pending().next().is_some()
            && view.send(Message::Signal).is_err()
        {
            return;
        }
    }
}

/// Asks every backend, on a thread of its own: a rehearsal may take a second.
fn probe(view: &Sender<Message>) -> Result<()> {
    let (view, host) = (view.clone(), Host::detect()?);
    spawn("probe", move || {
        let (backends, diagnosis) = look_at_all(&host);
        view.send(Message::Probe(Probed { backends, diagnosis })).unwrap_or_default();
    })
    .map(drop)
}
