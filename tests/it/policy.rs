//! What the engine decides, through its public door: when mail is tried again and when it is given
//! up, what a relay's outage costs, whose turn it is, and how connections are used.

mod abilities;
mod addresses;
mod blame;
mod connections;
mod expiry;
mod growth;
mod hanging;
mod many_recipients;
mod outage;
mod recipients;
mod retry;
mod shares;
