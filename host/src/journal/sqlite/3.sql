-- Version 3: what a tool did belongs to the delivery that called it, and is its own plugin's.

ALTER TABLE unsent ADD COLUMN plugin TEXT;  -- whose tool; NULL: as the contribution says
ALTER TABLE sent ADD COLUMN plugin TEXT;
