//! What holds for the project as a whole, whatever it does: the arrows between rooms, how files
//! begin and how long they are, that documents point at what is there. Reads files, runs nothing.

mod documents;
mod files;
mod rooms;
mod sources;
