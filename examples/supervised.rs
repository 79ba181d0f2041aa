//! The engine as a child in an application's own ractor supervision tree: the application's
//! supervisor is notified when the engine ends, and decides what to do.
//!
//! The engine restarts its own actors when one fails. It ends only if that happens again and again,
//! or if it is shut down. Accepted mail stays in the spool in either case, and the next engine on
//! that spool sends it.

use std::path::PathBuf;

use postrider::transport::Capture;
use postrider::{Dispatcher, Drain, Mail, Relay, seconds};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

/// The application's supervisor.
struct Application;

enum Msg {
    /// Send somebody a greeting.
    Greet(String),
    /// Start the engine again.
    Start,
    /// End the application.
    Stop,
}

struct State {
    spool: PathBuf,
    relay: Relay,
    postrider: Option<Dispatcher>,
}

impl Actor for Application {
    type Msg = Msg;
    type State = State;
    type Arguments = (PathBuf, Relay);

    async fn pre_start(
        &self,
        myself: ActorRef<Msg>,
        (spool, relay): Self::Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let mut state = State {
            spool,
            relay,
            postrider: None,
        };
        state.start(&myself).await?;
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        msg: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Greet(to) => state.greet(to).await,
            Msg::Start => {
                if let Err(error) = state.start(&myself).await {
                    println!("the engine cannot be started yet: {error}");
                    myself.send_after(seconds(1), || Msg::Start);
                }
                Ok(())
            }
            Msg::Stop => state.stop().await,
        }
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Msg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(_, error) => {
                println!("the engine failed, and is started again: {error}");
                state.postrider = None;
                myself.send_after(seconds(1), || Msg::Start);
            }
            SupervisionEvent::ActorTerminated(..) => {
                println!("the engine has ended, as requested");
                myself.stop(None);
            }
            _ => {}
        }

        Ok(())
    }
}

impl State {
    async fn start(&mut self, myself: &ActorRef<Msg>) -> Result<(), ActorProcessingErr> {
        let builder = Dispatcher::builder()
            .relay(self.relay.clone())
            .spool(&self.spool);
        self.postrider = Some(builder.start_linked(myself.get_cell()).await?);
        println!("the engine runs, linked to the application");
        Ok(())
    }

    async fn greet(&self, to: String) -> Result<(), ActorProcessingErr> {
        let Some(postrider) = &self.postrider else {
            println!("{to} is not greeted: the engine is not there");
            return Ok(());
        };

        let mail = Mail::builder()
            .from("shop@example.com")
            .to(to)
            .subject("Hello")
            .text("Good to have you.")
            .build()?;

        let receipt = postrider.submit(mail).await?;
        println!("mail {} is accepted", receipt.id);
        Ok(())
    }

    async fn stop(&mut self) -> Result<(), ActorProcessingErr> {
        if let Some(postrider) = self.postrider.take() {
            postrider.wait_idle().await;
            postrider.shutdown(Drain::within(seconds(5))).await?;
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let spool = tempfile::tempdir()?;
    let capture = Capture::default();
    let args = (spool.path().to_owned(), Relay::capture(&capture));
    let (application, ended) = Actor::spawn(None, Application, args).await?;
    application.cast(Msg::Greet("ada@example.org".into()))?;
    application.cast(Msg::Greet("brian@example.org".into()))?;
    application.cast(Msg::Stop)?;
    ended.await?;
    println!("{} mails were delivered", capture.captured().len());
    Ok(())
}
