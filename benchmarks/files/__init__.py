"""Files that this project writes and reads back: signed, and checked for what they may say."""
