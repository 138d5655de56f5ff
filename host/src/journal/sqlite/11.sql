-- Version 11: indices that were missed, and two that said what others say.

-- What has not ended is looked for among all that is kept.
CREATE INDEX record_open ON record (event) WHERE ended IS NULL;
-- What a contribution has to send; it goes with its event.
CREATE INDEX unsent_of_contribution ON unsent (contribution);
DROP INDEX unsent_of_agent;
DROP INDEX pending_of_agent;
-- Any of the agent's own, a plugin's or not.
CREATE INDEX sent_event ON sent (event) WHERE event IS NOT NULL;
DROP INDEX sent_message;
