//! A network that can be cut: a door on this machine that passes on what it is told, while it is
//! let.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How the network is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NetworkState {
    Whole,
    /// Connections end, and none is made.
    Cut,
    /// Nothing comes through, and nothing is said.
    Silent,
}

/// Passes connections on to another port of this machine.
pub struct Proxy {
    port: u16,
    state: Arc<Mutex<State>>,
}

struct State {
    line: NetworkState,
    open: Vec<TcpStream>,
    /// How often the connections that there were have been lost.
    losses: usize,
}

impl Proxy {
    /// A way to this port.
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let own = listener.local_addr().expect("bound").port();
        let state = Arc::new(Mutex::new(State {
            line: NetworkState::Whole,
            open: Vec::new(),
            losses: 0,
        }));

        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                if shared.lock().unwrap().line == NetworkState::Cut {
                    continue;
                }
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else {
                    continue;
                };
                let copies = [near.try_clone(), far.try_clone()];
                shared
                    .lock()
                    .unwrap()
                    .open
                    .extend(copies.into_iter().flatten());
                pass(&near, &far, &shared);
                pass(&far, &near, &shared);
            }
        });

        Proxy { port: own, state }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends every connection, and lets none be made.
    pub fn cut(&self) {
        let mut state = self.state.lock().unwrap();
        state.line = NetworkState::Cut;
        for open in state.open.drain(..) {
            let _ = open.shutdown(Shutdown::Both);
        }
    }

    /// Holds back whatever is said, as a network does that loses everything.
    pub fn silence(&self) {
        self.state.lock().unwrap().line = NetworkState::Silent;
    }

    /// Loses the connections that there are, as a firewall does that has forgotten them: nothing
    /// comes through any more, and nobody is told. New ones are made.
    pub fn lose(&self) {
        self.state.lock().unwrap().losses += 1;
    }

    /// Lets everything through again; what was silent is over.
    pub fn mend(&self) {
        let mut state = self.state.lock().unwrap();
        if state.line == NetworkState::Silent {
            for open in state.open.drain(..) {
                let _ = open.shutdown(Shutdown::Both);
            }
        }
        state.line = NetworkState::Whole;
    }
}

/// Passes on what comes from one side, in a thread of its own.
fn pass(from: &TcpStream, to: &TcpStream, state: &Arc<Mutex<State>>) {
    let (Ok(mut from), Ok(mut to)) = (from.try_clone(), to.try_clone()) else {
        return;
    };

    let state = Arc::clone(state);
    let losses = state.lock().unwrap().losses;
    let is_held_back = move || {
        let state = state.lock().unwrap();
        state.line == NetworkState::Silent || state.losses != losses
    };
    std::thread::spawn(move || {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(count) = from.read(&mut bytes)
            && count > 0
        {
            while is_held_back() {
                std::thread::sleep(Duration::from_millis(20));
            }
            if to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    });
}
