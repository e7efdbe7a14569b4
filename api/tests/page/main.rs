//! The page and the button in a real Chromium, in front of the real service, the emulator and the sample job.

mod accessibility;
mod browser;
mod element;
mod frameworks;
mod node;
mod page;
mod scripted;
mod world;
