//! THE DOORS: how mail comes in from outside the process. A door sees only [`Dispatcher`](crate::Dispatcher) and
//! [`mail`](crate::mail), and says yes only after `submit` did.

pub mod smtp;
