BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE backups (
	id VARCHAR(36) NOT NULL, 
	tenant_id VARCHAR(64) NOT NULL, 
	instance_id VARCHAR(36) NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	state VARCHAR(32) NOT NULL, 
	create_time DATETIME NOT NULL, 
	update_time DATETIME NOT NULL, 
	description VARCHAR(512) NOT NULL, 
	parent_id VARCHAR(36), 
	location VARCHAR(1024) NOT NULL, 
	size_bytes BIGINT NOT NULL, 
	checksum VARCHAR(128) NOT NULL, 
	reason VARCHAR(1024) NOT NULL, 
	delete_time DATETIME, 
	CONSTRAINT pk_backups PRIMARY KEY (id), 
	CONSTRAINT fk_backups_instance_id FOREIGN KEY(instance_id) REFERENCES instances (id)
);
CREATE TABLE create_requests (
	tenant_id VARCHAR(64) NOT NULL, 
	request_id VARCHAR(255) NOT NULL, 
	fingerprint VARCHAR(64) NOT NULL, 
	instance_id VARCHAR(36) NOT NULL, 
	operation_id VARCHAR(36) NOT NULL, 
	create_time DATETIME NOT NULL, 
	CONSTRAINT pk_create_requests PRIMARY KEY (tenant_id, request_id)
);
INSERT INTO "create_requests" VALUES('demo','first','f','f29fbdef-9d3c-4367-9ab8-590a3b769e11','49426bf9-9159-4e6b-9048-2dbccc2ba0bb','2026-01-01 12:00:00.000000');
CREATE TABLE datastore_versions (
	id VARCHAR(36) NOT NULL, 
	datastore_id VARCHAR(36) NOT NULL, 
	name VARCHAR(100) NOT NULL, 
	version VARCHAR(64) NOT NULL, 
	is_active BOOLEAN NOT NULL, 
	CONSTRAINT pk_datastore_versions PRIMARY KEY (id), 
	CONSTRAINT fk_datastore_versions_datastore_id FOREIGN KEY(datastore_id) REFERENCES datastores (id), 
	CONSTRAINT uq_datastore_versions_datastore_id_name_version UNIQUE (datastore_id, name, version)
);
INSERT INTO "datastore_versions" VALUES('a6013724-3086-53e5-9273-04df2765cbe2','57e484dd-2b9c-5f17-985a-5674351284af','15','15',1);
CREATE TABLE datastores (
	id VARCHAR(36) NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	manager VARCHAR(32) NOT NULL, 
	port BIGINT NOT NULL, 
	default_version_id VARCHAR(36), 
	CONSTRAINT pk_datastores PRIMARY KEY (id), 
	CONSTRAINT uq_datastores_name UNIQUE (name)
);
INSERT INTO "datastores" VALUES('57e484dd-2b9c-5f17-985a-5674351284af','postgresql','postgresql',5432,'a6013724-3086-53e5-9273-04df2765cbe2');
CREATE TABLE gateways (
	id VARCHAR(255) NOT NULL, 
	incarnation VARCHAR(64) NOT NULL, 
	address VARCHAR(255) NOT NULL, 
	lease_expire_time DATETIME NOT NULL, 
	CONSTRAINT pk_gateways PRIMARY KEY (id)
);
CREATE TABLE guest_presence (
	instance_id VARCHAR(36) NOT NULL, 
	session_epoch BIGINT NOT NULL, 
	sequence BIGINT NOT NULL, 
	engine_state VARCHAR(32) NOT NULL, 
	reason VARCHAR(1024) NOT NULL, 
	engine_version VARCHAR(64) NOT NULL, 
	start_count BIGINT NOT NULL, 
	volume_total_bytes BIGINT NOT NULL, 
	volume_used_bytes BIGINT NOT NULL, 
	last_report_time DATETIME, 
	CONSTRAINT pk_guest_presence PRIMARY KEY (instance_id)
);
INSERT INTO "guest_presence" VALUES('f29fbdef-9d3c-4367-9ab8-590a3b769e11',0,0,'','','',0,0,0,NULL);
CREATE TABLE guest_reports (
	instance_id VARCHAR(36) NOT NULL, 
	report_id VARCHAR(128) NOT NULL, 
	apply_time DATETIME NOT NULL, 
	CONSTRAINT pk_guest_reports PRIMARY KEY (instance_id, report_id)
);
CREATE TABLE guest_sessions (
	instance_id VARCHAR(36) NOT NULL, 
	session_epoch BIGINT NOT NULL, 
	gateway_id VARCHAR(255) NOT NULL, 
	incarnation VARCHAR(64) NOT NULL, 
	certificate_serial VARCHAR(64) NOT NULL, 
	boot_id VARCHAR(255) NOT NULL, 
	agent_version VARCHAR(64) NOT NULL, 
	open_time DATETIME, 
	close_time DATETIME, 
	close_reason VARCHAR(255) NOT NULL, 
	CONSTRAINT pk_guest_sessions PRIMARY KEY (instance_id), 
	CONSTRAINT fk_guest_sessions_instance_id FOREIGN KEY(instance_id) REFERENCES instances (id)
);
INSERT INTO "guest_sessions" VALUES('f29fbdef-9d3c-4367-9ab8-590a3b769e11',0,'','','','','',NULL,NULL,'');
CREATE TABLE instances (
	id VARCHAR(36) NOT NULL, 
	tenant_id VARCHAR(64) NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	task VARCHAR(32) NOT NULL, 
	datastore_version_id VARCHAR(36) NOT NULL, 
	flavor_id VARCHAR(255) NOT NULL, 
	flavor_name VARCHAR(255) NOT NULL, 
	flavor_ram_mib BIGINT NOT NULL, 
	flavor_vcpus BIGINT NOT NULL, 
	flavor_disk_gib BIGINT NOT NULL, 
	volume_size_gib BIGINT NOT NULL, 
	volume_type VARCHAR(255) NOT NULL, 
	region VARCHAR(255) NOT NULL, 
	availability_zone VARCHAR(255) NOT NULL, 
	is_public BOOLEAN NOT NULL, 
	allowed_cidrs JSON NOT NULL, 
	databases JSON NOT NULL, 
	create_time DATETIME NOT NULL, 
	update_time DATETIME NOT NULL, 
	last_operation_id VARCHAR(36) NOT NULL, 
	compute_id VARCHAR(255) NOT NULL, 
	addresses JSON NOT NULL, 
	dns_names JSON NOT NULL, 
	fault_message TEXT NOT NULL, 
	fault_details TEXT NOT NULL, 
	fault_time DATETIME, 
	delete_time DATETIME, 
	generation BIGINT NOT NULL, 
	row_version BIGINT NOT NULL, 
	CONSTRAINT pk_instances PRIMARY KEY (id), 
	CONSTRAINT fk_instances_datastore_version_id FOREIGN KEY(datastore_version_id) REFERENCES datastore_versions (id)
);
INSERT INTO "instances" VALUES('f29fbdef-9d3c-4367-9ab8-590a3b769e11','demo','ünïcode','BUILDING','a6013724-3086-53e5-9273-04df2765cbe2','1','db.tiny',512,1,0,2,'','RegionOne','',0,'[]','[]','2026-01-01 12:00:00.000000','2026-01-01 12:00:00.000000','49426bf9-9159-4e6b-9048-2dbccc2ba0bb','','[]','[]','','',NULL,NULL,1,1);
CREATE TABLE members (
	id VARCHAR(36) NOT NULL, 
	topology_id VARCHAR(36) NOT NULL, 
	instance_id VARCHAR(36) NOT NULL, 
	role VARCHAR(32) NOT NULL, 
	CONSTRAINT pk_members PRIMARY KEY (id), 
	CONSTRAINT fk_members_instance_id FOREIGN KEY(instance_id) REFERENCES instances (id), 
	CONSTRAINT fk_members_topology_id FOREIGN KEY(topology_id) REFERENCES topologies (id), 
	CONSTRAINT uq_members_instance_id UNIQUE (instance_id)
);
INSERT INTO "members" VALUES('48e92d02-59b9-410d-9cdd-b09bd2fe73a6','4bb73482-12a0-4dcc-81ee-90b1ea3effb2','f29fbdef-9d3c-4367-9ab8-590a3b769e11','primary');
CREATE TABLE operation_secrets (
	operation_id VARCHAR(36) NOT NULL, 
	sealed BLOB NOT NULL, 
	CONSTRAINT pk_operation_secrets PRIMARY KEY (operation_id), 
	CONSTRAINT fk_operation_secrets_operation_id FOREIGN KEY(operation_id) REFERENCES operations (id)
);
INSERT INTO "operation_secrets" VALUES('49426bf9-9159-4e6b-9048-2dbccc2ba0bb',X'7365616C6564');
CREATE TABLE operation_steps (
	operation_id VARCHAR(36) NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	position BIGINT NOT NULL, 
	state VARCHAR(32) NOT NULL, 
	detail TEXT NOT NULL, 
	start_time DATETIME NOT NULL, 
	end_time DATETIME, 
	CONSTRAINT pk_operation_steps PRIMARY KEY (operation_id, name), 
	CONSTRAINT fk_operation_steps_operation_id FOREIGN KEY(operation_id) REFERENCES operations (id)
);
CREATE TABLE operations (
	id VARCHAR(36) NOT NULL, 
	kind VARCHAR(32) NOT NULL, 
	tenant_id VARCHAR(64) NOT NULL, 
	instance_id VARCHAR(36) NOT NULL, 
	state VARCHAR(32) NOT NULL, 
	request_id VARCHAR(255) NOT NULL, 
	create_time DATETIME NOT NULL, 
	fault_message TEXT NOT NULL, 
	fault_details TEXT NOT NULL, 
	fault_time DATETIME, 
	end_time DATETIME, 
	CONSTRAINT pk_operations PRIMARY KEY (id), 
	CONSTRAINT fk_operations_instance_id FOREIGN KEY(instance_id) REFERENCES instances (id)
);
INSERT INTO "operations" VALUES('49426bf9-9159-4e6b-9048-2dbccc2ba0bb','create_instance','demo','f29fbdef-9d3c-4367-9ab8-590a3b769e11','PENDING','req-1','2026-01-01 12:00:00.000000','','',NULL,NULL);
CREATE TABLE quota_reservations (
	instance_id VARCHAR(36) NOT NULL, 
	resource VARCHAR(32) NOT NULL, 
	tenant_id VARCHAR(64) NOT NULL, 
	amount BIGINT NOT NULL, 
	is_committed BOOLEAN NOT NULL, 
	CONSTRAINT pk_quota_reservations PRIMARY KEY (instance_id, resource), 
	CONSTRAINT fk_quota_reservations_instance_id FOREIGN KEY(instance_id) REFERENCES instances (id)
);
INSERT INTO "quota_reservations" VALUES('f29fbdef-9d3c-4367-9ab8-590a3b769e11','instances','demo',1,0);
INSERT INTO "quota_reservations" VALUES('f29fbdef-9d3c-4367-9ab8-590a3b769e11','volumes','demo',2,0);
INSERT INTO "quota_reservations" VALUES('f29fbdef-9d3c-4367-9ab8-590a3b769e11','ram','demo',512,0);
CREATE TABLE quota_usages (
	tenant_id VARCHAR(64) NOT NULL, 
	resource VARCHAR(32) NOT NULL, 
	in_use BIGINT NOT NULL, 
	reserved BIGINT NOT NULL, 
	CONSTRAINT pk_quota_usages PRIMARY KEY (tenant_id, resource)
);
INSERT INTO "quota_usages" VALUES('demo','instances',0,1);
INSERT INTO "quota_usages" VALUES('demo','ram',0,512);
INSERT INTO "quota_usages" VALUES('demo','volumes',0,2);
CREATE TABLE quotas (
	tenant_id VARCHAR(64) NOT NULL, 
	resource VARCHAR(32) NOT NULL, 
	hard_limit BIGINT NOT NULL, 
	CONSTRAINT pk_quotas PRIMARY KEY (tenant_id, resource)
);
CREATE TABLE topologies (
	id VARCHAR(36) NOT NULL, 
	tenant_id VARCHAR(64) NOT NULL, 
	kind VARCHAR(32) NOT NULL, 
	create_time DATETIME NOT NULL, 
	delete_time DATETIME, 
	CONSTRAINT pk_topologies PRIMARY KEY (id)
);
INSERT INTO "topologies" VALUES('4bb73482-12a0-4dcc-81ee-90b1ea3effb2','demo','single','2026-01-01 12:00:00.000000',NULL);
CREATE INDEX ix_create_requests_create_time ON create_requests (create_time);
CREATE INDEX ix_guest_reports_apply_time ON guest_reports (apply_time);
CREATE INDEX ix_topologies_tenant_id ON topologies (tenant_id);
CREATE INDEX ix_instances_tenant_id_delete_time_id ON instances (tenant_id, delete_time, id);
CREATE INDEX ix_backups_instance_id_state ON backups (instance_id, state);
CREATE INDEX ix_backups_tenant_id ON backups (tenant_id);
CREATE INDEX ix_members_topology_id ON members (topology_id);
CREATE INDEX ix_operations_end_time_create_time_id ON operations (end_time, create_time, id);
CREATE INDEX ix_operations_instance_id_create_time_id ON operations (instance_id, create_time, id);
CREATE INDEX ix_operations_tenant_id_create_time_id ON operations (tenant_id, create_time, id);
COMMIT;
