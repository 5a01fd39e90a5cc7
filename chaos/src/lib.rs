//! What Pointsman is shown and tested with. Stands outside the line of a request, at both of its ends:
//! [`load`] plays the clients, [`fakes`] the model servers, and [`fault`] breaks what lies between edge and
//! model server. Links nothing of the proxy: it meets the edge over sockets, as the world does.

mod clock;
mod count;
pub mod fakes;
pub mod fault;
pub mod invariant;
pub mod live;
pub mod load;
mod memory;
mod promise;
pub mod report;
pub mod scenario;
mod serve;
pub mod sim;
