-- A store of revision 1, as the first version made it; its pepper is: a pepper of an earlier version
-- A key of it: slb_pr2j4mdt__cxHntrisSrBvh23tWtTMGBMWnGfBR85MC48fcP_iWc
BEGIN TRANSACTION;
CREATE TABLE audit_logs (
	slot INTEGER NOT NULL,
	seq BIGINT NOT NULL,
	timestamp VARCHAR(27) NOT NULL,
	event_type VARCHAR(32) NOT NULL,
	request_id VARCHAR(64),
	client_request_id VARCHAR(128),
	epoch VARCHAR(16),
	user_id VARCHAR(128),
	key_id VARCHAR(64),
	client_ip VARCHAR(64),
	endpoint VARCHAR(64),
	requested_model VARCHAR(512),
	provider VARCHAR(64),
	model VARCHAR(512),
	stream INTEGER,
	attempt INTEGER,
	status VARCHAR(16),
	http_status INTEGER,
	error_code VARCHAR(64),
	error_message VARCHAR(512),
	prompt_tokens BIGINT,
	completion_tokens BIGINT,
	total_tokens BIGINT,
	usage_source VARCHAR(16),
	estimated_cost_usd FLOAT,
	cost_nusd BIGINT,
	price_table VARCHAR(64),
	finish_reason VARCHAR(64),
	duration_ms FLOAT,
	first_token_ms FLOAT,
	bytes_in BIGINT,
	bytes_out BIGINT,
	cache VARCHAR(8),
	upstream_request_id VARCHAR(512),
	content VARCHAR(16),
	action VARCHAR(32),
	count BIGINT,
	attempts INTEGER,
	PRIMARY KEY (slot, seq)
);
INSERT INTO "audit_logs" VALUES(1,1,'2026-11-22T10:00:00.000000Z','request_received',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE audit_positions (
	slot INTEGER NOT NULL,
	file VARCHAR(64) NOT NULL,
	"offset" BIGINT NOT NULL,
	line_offset BIGINT NOT NULL,
	line_hash VARCHAR(64) NOT NULL,
	PRIMARY KEY (slot)
);
INSERT INTO "audit_positions" VALUES(1,'audit.2026-11-22.log',10,0,'x');
CREATE TABLE events (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	at_s INTEGER NOT NULL,
	action VARCHAR(32) NOT NULL,
	subject VARCHAR(64) NOT NULL
);
INSERT INTO "events" VALUES(1,1795359533,'key_created','pr2j4mdt');
INSERT INTO "events" VALUES(2,1795359533,'key_created','lb4pkfzz');
INSERT INTO "events" VALUES(3,1795359533,'key_created','wmitosx6');
INSERT INTO "events" VALUES(4,1795359533,'key_revoked','wmitosx6');
INSERT INTO "events" VALUES(5,1795359533,'content_erased','0198d2e0-0000-7000-8000-000000000000');
CREATE TABLE keys (
	id VARCHAR(8) NOT NULL,
	digest BLOB NOT NULL,
	name VARCHAR(128) NOT NULL,
	role VARCHAR(16) NOT NULL,
	created_at_s INTEGER NOT NULL,
	expires_at_s INTEGER,
	revoked_at_s INTEGER,
	PRIMARY KEY (id)
);
INSERT INTO "keys" VALUES('pr2j4mdt',X'E0F0E793A9E69BEBEF44AC38B638CA745C2D4AC584F29BE01C5AE916D7D13B2E','alice','operator',1795359533,NULL,NULL);
INSERT INTO "keys" VALUES('lb4pkfzz',X'45077CA5FCE7559E3296474B15D5898021B66D5FF6E4F76A8AB5620C408645F3','bob','user',1795359533,4102444800,NULL);
INSERT INTO "keys" VALUES('wmitosx6',X'ACC9F8A1EDF2081CD7C9AB42D21BD6B011D7ED256822E51397026EE050E8AFFA','o''brien','user',1795359533,NULL,1795359533);
CREATE TABLE meta (
	name VARCHAR(64) NOT NULL,
	value INTEGER NOT NULL,
	PRIMARY KEY (name)
);
INSERT INTO "meta" VALUES('generation',4);
CREATE TABLE models (
	provider VARCHAR(64) NOT NULL,
	model VARCHAR(256) NOT NULL,
	context INTEGER,
	max_output INTEGER,
	created_s INTEGER NOT NULL,
	display_name VARCHAR(256),
	seen_at_s INTEGER NOT NULL,
	PRIMARY KEY (provider, model)
);
INSERT INTO "models" VALUES('openai','gpt-x',1000,NULL,5,'GPT X',1795359533);
CREATE TABLE schema_version (
	version INTEGER NOT NULL,
	applied_at_s INTEGER NOT NULL,
	PRIMARY KEY (version)
);
INSERT INTO "schema_version" VALUES(1,1795359533);
CREATE INDEX keys_by_creation ON keys (created_at_s);
CREATE INDEX audit_logs_by_time ON audit_logs (timestamp);
CREATE INDEX audit_logs_by_request ON audit_logs (request_id);
CREATE INDEX audit_logs_by_user ON audit_logs (user_id, timestamp);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('events',5);
COMMIT;
