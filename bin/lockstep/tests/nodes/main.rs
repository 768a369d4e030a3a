//! Nodes, a process each, under load: what is acknowledged stays, and is done once.
mod byzantine;
mod damage;
mod fleet;
mod kills;
mod load;
mod members;
mod twins;
