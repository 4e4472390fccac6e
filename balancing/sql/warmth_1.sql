-- warmth_1: what warm_1 says of one request: the agents, the warmest first, and how warm they are.
CREATE TYPE warmth_1 AS (request uuid, agents uuid[], warmth float8[])
