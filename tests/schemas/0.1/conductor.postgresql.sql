SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

SET default_tablespace = '';

SET default_table_access_method = heap;

CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);

CREATE TABLE public.backups (
    id character varying(36) NOT NULL,
    tenant_id character varying(64) NOT NULL,
    instance_id character varying(36) NOT NULL,
    name character varying(255) NOT NULL,
    state character varying(32) NOT NULL,
    create_time timestamp with time zone NOT NULL,
    update_time timestamp with time zone NOT NULL,
    description character varying(512) NOT NULL,
    parent_id character varying(36),
    location character varying(1024) NOT NULL,
    size_bytes bigint NOT NULL,
    checksum character varying(128) NOT NULL,
    reason character varying(1024) NOT NULL,
    delete_time timestamp with time zone
);

CREATE TABLE public.create_requests (
    tenant_id character varying(64) NOT NULL,
    request_id character varying(255) NOT NULL,
    fingerprint character varying(64) NOT NULL,
    instance_id character varying(36) NOT NULL,
    operation_id character varying(36) NOT NULL,
    create_time timestamp with time zone NOT NULL
);

CREATE TABLE public.datastore_versions (
    id character varying(36) NOT NULL,
    datastore_id character varying(36) NOT NULL,
    name character varying(100) NOT NULL,
    version character varying(64) NOT NULL,
    is_active boolean NOT NULL
);

CREATE TABLE public.datastores (
    id character varying(36) NOT NULL,
    name character varying(255) NOT NULL,
    manager character varying(32) NOT NULL,
    port bigint NOT NULL,
    default_version_id character varying(36)
);

CREATE TABLE public.gateways (
    id character varying(255) NOT NULL,
    incarnation character varying(64) NOT NULL,
    address character varying(255) NOT NULL,
    lease_expire_time timestamp with time zone NOT NULL
);

CREATE TABLE public.guest_presence (
    instance_id character varying(36) NOT NULL,
    session_epoch bigint NOT NULL,
    sequence bigint NOT NULL,
    engine_state character varying(32) NOT NULL,
    reason character varying(1024) NOT NULL,
    engine_version character varying(64) NOT NULL,
    start_count bigint NOT NULL,
    volume_total_bytes bigint NOT NULL,
    volume_used_bytes bigint NOT NULL,
    last_report_time timestamp with time zone
);

CREATE TABLE public.guest_reports (
    instance_id character varying(36) NOT NULL,
    report_id character varying(128) NOT NULL,
    apply_time timestamp with time zone NOT NULL
);

CREATE TABLE public.guest_sessions (
    instance_id character varying(36) NOT NULL,
    session_epoch bigint NOT NULL,
    gateway_id character varying(255) NOT NULL,
    incarnation character varying(64) NOT NULL,
    certificate_serial character varying(64) NOT NULL,
    boot_id character varying(255) NOT NULL,
    agent_version character varying(64) NOT NULL,
    open_time timestamp with time zone,
    close_time timestamp with time zone,
    close_reason character varying(255) NOT NULL
);

CREATE TABLE public.instances (
    id character varying(36) NOT NULL,
    tenant_id character varying(64) NOT NULL,
    name character varying(255) NOT NULL,
    task character varying(32) NOT NULL,
    datastore_version_id character varying(36) NOT NULL,
    flavor_id character varying(255) NOT NULL,
    flavor_name character varying(255) NOT NULL,
    flavor_ram_mib bigint NOT NULL,
    flavor_vcpus bigint NOT NULL,
    flavor_disk_gib bigint NOT NULL,
    volume_size_gib bigint NOT NULL,
    volume_type character varying(255) NOT NULL,
    region character varying(255) NOT NULL,
    availability_zone character varying(255) NOT NULL,
    is_public boolean NOT NULL,
    allowed_cidrs json NOT NULL,
    databases json NOT NULL,
    create_time timestamp with time zone NOT NULL,
    update_time timestamp with time zone NOT NULL,
    last_operation_id character varying(36) NOT NULL,
    compute_id character varying(255) NOT NULL,
    addresses json NOT NULL,
    dns_names json NOT NULL,
    fault_message text NOT NULL,
    fault_details text NOT NULL,
    fault_time timestamp with time zone,
    delete_time timestamp with time zone,
    generation bigint NOT NULL,
    row_version bigint NOT NULL
);

CREATE TABLE public.members (
    id character varying(36) NOT NULL,
    topology_id character varying(36) NOT NULL,
    instance_id character varying(36) NOT NULL,
    role character varying(32) NOT NULL
);

CREATE TABLE public.operation_secrets (
    operation_id character varying(36) NOT NULL,
    sealed bytea NOT NULL
);

CREATE TABLE public.operation_steps (
    operation_id character varying(36) NOT NULL,
    name character varying(64) NOT NULL,
    "position" bigint NOT NULL,
    state character varying(32) NOT NULL,
    detail text NOT NULL,
    start_time timestamp with time zone NOT NULL,
    end_time timestamp with time zone
);

CREATE TABLE public.operations (
    id character varying(36) NOT NULL,
    kind character varying(32) NOT NULL,
    tenant_id character varying(64) NOT NULL,
    instance_id character varying(36) NOT NULL,
    state character varying(32) NOT NULL,
    request_id character varying(255) NOT NULL,
    create_time timestamp with time zone NOT NULL,
    fault_message text NOT NULL,
    fault_details text NOT NULL,
    fault_time timestamp with time zone,
    end_time timestamp with time zone
);

CREATE TABLE public.quota_reservations (
    instance_id character varying(36) NOT NULL,
    resource character varying(32) NOT NULL,
    tenant_id character varying(64) NOT NULL,
    amount bigint NOT NULL,
    is_committed boolean NOT NULL
);

CREATE TABLE public.quota_usages (
    tenant_id character varying(64) NOT NULL,
    resource character varying(32) NOT NULL,
    in_use bigint NOT NULL,
    reserved bigint NOT NULL
);

CREATE TABLE public.quotas (
    tenant_id character varying(64) NOT NULL,
    resource character varying(32) NOT NULL,
    hard_limit bigint NOT NULL
);

CREATE TABLE public.topologies (
    id character varying(36) NOT NULL,
    tenant_id character varying(64) NOT NULL,
    kind character varying(32) NOT NULL,
    create_time timestamp with time zone NOT NULL,
    delete_time timestamp with time zone
);

INSERT INTO public.alembic_version VALUES ('0001');

INSERT INTO public.create_requests VALUES ('demo', 'first', 'f', 'c1dbb177-f8bc-42fe-90d1-f89169078457', '46638a36-7a1c-4024-b297-5cef588ddbac', '2026-01-01 12:00:00+00');

INSERT INTO public.datastore_versions VALUES ('a6013724-3086-53e5-9273-04df2765cbe2', '57e484dd-2b9c-5f17-985a-5674351284af', '15', '15', true);

INSERT INTO public.datastores VALUES ('57e484dd-2b9c-5f17-985a-5674351284af', 'postgresql', 'postgresql', 5432, 'a6013724-3086-53e5-9273-04df2765cbe2');

INSERT INTO public.guest_presence VALUES ('c1dbb177-f8bc-42fe-90d1-f89169078457', 0, 0, '', '', '', 0, 0, 0, NULL);

INSERT INTO public.guest_sessions VALUES ('c1dbb177-f8bc-42fe-90d1-f89169078457', 0, '', '', '', '', '', NULL, NULL, '');

INSERT INTO public.instances VALUES ('c1dbb177-f8bc-42fe-90d1-f89169078457', 'demo', 'ünïcode', 'BUILDING', 'a6013724-3086-53e5-9273-04df2765cbe2', '1', 'db.tiny', 512, 1, 0, 2, '', 'RegionOne', '', false, '[]', '[]', '2026-01-01 12:00:00+00', '2026-01-01 12:00:00+00', '46638a36-7a1c-4024-b297-5cef588ddbac', '', '[]', '[]', '', '', NULL, NULL, 1, 1);

INSERT INTO public.members VALUES ('3b8de084-363a-483d-8ef9-17b6fdf3d487', '43337970-0762-4f86-b653-3332af13b8fb', 'c1dbb177-f8bc-42fe-90d1-f89169078457', 'primary');

INSERT INTO public.operation_secrets VALUES ('46638a36-7a1c-4024-b297-5cef588ddbac', '\x7365616c6564');

INSERT INTO public.operations VALUES ('46638a36-7a1c-4024-b297-5cef588ddbac', 'create_instance', 'demo', 'c1dbb177-f8bc-42fe-90d1-f89169078457', 'PENDING', 'req-1', '2026-01-01 12:00:00+00', '', '', NULL, NULL);

INSERT INTO public.quota_reservations VALUES ('c1dbb177-f8bc-42fe-90d1-f89169078457', 'instances', 'demo', 1, false);
INSERT INTO public.quota_reservations VALUES ('c1dbb177-f8bc-42fe-90d1-f89169078457', 'volumes', 'demo', 2, false);
INSERT INTO public.quota_reservations VALUES ('c1dbb177-f8bc-42fe-90d1-f89169078457', 'ram', 'demo', 512, false);

INSERT INTO public.quota_usages VALUES ('demo', 'instances', 0, 1);
INSERT INTO public.quota_usages VALUES ('demo', 'ram', 0, 512);
INSERT INTO public.quota_usages VALUES ('demo', 'volumes', 0, 2);

INSERT INTO public.topologies VALUES ('43337970-0762-4f86-b653-3332af13b8fb', 'demo', 'single', '2026-01-01 12:00:00+00', NULL);

ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);

ALTER TABLE ONLY public.backups
    ADD CONSTRAINT pk_backups PRIMARY KEY (id);

ALTER TABLE ONLY public.create_requests
    ADD CONSTRAINT pk_create_requests PRIMARY KEY (tenant_id, request_id);

ALTER TABLE ONLY public.datastore_versions
    ADD CONSTRAINT pk_datastore_versions PRIMARY KEY (id);

ALTER TABLE ONLY public.datastores
    ADD CONSTRAINT pk_datastores PRIMARY KEY (id);

ALTER TABLE ONLY public.gateways
    ADD CONSTRAINT pk_gateways PRIMARY KEY (id);

ALTER TABLE ONLY public.guest_presence
    ADD CONSTRAINT pk_guest_presence PRIMARY KEY (instance_id);

ALTER TABLE ONLY public.guest_reports
    ADD CONSTRAINT pk_guest_reports PRIMARY KEY (instance_id, report_id);

ALTER TABLE ONLY public.guest_sessions
    ADD CONSTRAINT pk_guest_sessions PRIMARY KEY (instance_id);

ALTER TABLE ONLY public.instances
    ADD CONSTRAINT pk_instances PRIMARY KEY (id);

ALTER TABLE ONLY public.members
    ADD CONSTRAINT pk_members PRIMARY KEY (id);

ALTER TABLE ONLY public.operation_secrets
    ADD CONSTRAINT pk_operation_secrets PRIMARY KEY (operation_id);

ALTER TABLE ONLY public.operation_steps
    ADD CONSTRAINT pk_operation_steps PRIMARY KEY (operation_id, name);

ALTER TABLE ONLY public.operations
    ADD CONSTRAINT pk_operations PRIMARY KEY (id);

ALTER TABLE ONLY public.quota_reservations
    ADD CONSTRAINT pk_quota_reservations PRIMARY KEY (instance_id, resource);

ALTER TABLE ONLY public.quota_usages
    ADD CONSTRAINT pk_quota_usages PRIMARY KEY (tenant_id, resource);

ALTER TABLE ONLY public.quotas
    ADD CONSTRAINT pk_quotas PRIMARY KEY (tenant_id, resource);

ALTER TABLE ONLY public.topologies
    ADD CONSTRAINT pk_topologies PRIMARY KEY (id);

ALTER TABLE ONLY public.datastore_versions
    ADD CONSTRAINT uq_datastore_versions_datastore_id_name_version UNIQUE (datastore_id, name, version);

ALTER TABLE ONLY public.datastores
    ADD CONSTRAINT uq_datastores_name UNIQUE (name);

ALTER TABLE ONLY public.members
    ADD CONSTRAINT uq_members_instance_id UNIQUE (instance_id);

CREATE INDEX ix_backups_instance_id_state ON public.backups USING btree (instance_id, state);

CREATE INDEX ix_backups_tenant_id ON public.backups USING btree (tenant_id);

CREATE INDEX ix_create_requests_create_time ON public.create_requests USING btree (create_time);

CREATE INDEX ix_guest_reports_apply_time ON public.guest_reports USING btree (apply_time);

CREATE INDEX ix_instances_tenant_id_delete_time_id ON public.instances USING btree (tenant_id, delete_time, id);

CREATE INDEX ix_members_topology_id ON public.members USING btree (topology_id);

CREATE INDEX ix_operations_end_time_create_time_id ON public.operations USING btree (end_time, create_time, id);

CREATE INDEX ix_operations_instance_id_create_time_id ON public.operations USING btree (instance_id, create_time, id);

CREATE INDEX ix_operations_tenant_id_create_time_id ON public.operations USING btree (tenant_id, create_time, id);

CREATE INDEX ix_topologies_tenant_id ON public.topologies USING btree (tenant_id);

ALTER TABLE ONLY public.backups
    ADD CONSTRAINT fk_backups_instance_id FOREIGN KEY (instance_id) REFERENCES public.instances(id);

ALTER TABLE ONLY public.datastore_versions
    ADD CONSTRAINT fk_datastore_versions_datastore_id FOREIGN KEY (datastore_id) REFERENCES public.datastores(id);

ALTER TABLE ONLY public.guest_sessions
    ADD CONSTRAINT fk_guest_sessions_instance_id FOREIGN KEY (instance_id) REFERENCES public.instances(id);

ALTER TABLE ONLY public.instances
    ADD CONSTRAINT fk_instances_datastore_version_id FOREIGN KEY (datastore_version_id) REFERENCES public.datastore_versions(id);

ALTER TABLE ONLY public.members
    ADD CONSTRAINT fk_members_instance_id FOREIGN KEY (instance_id) REFERENCES public.instances(id);

ALTER TABLE ONLY public.members
    ADD CONSTRAINT fk_members_topology_id FOREIGN KEY (topology_id) REFERENCES public.topologies(id);

ALTER TABLE ONLY public.operation_secrets
    ADD CONSTRAINT fk_operation_secrets_operation_id FOREIGN KEY (operation_id) REFERENCES public.operations(id);

ALTER TABLE ONLY public.operation_steps
    ADD CONSTRAINT fk_operation_steps_operation_id FOREIGN KEY (operation_id) REFERENCES public.operations(id);

ALTER TABLE ONLY public.operations
    ADD CONSTRAINT fk_operations_instance_id FOREIGN KEY (instance_id) REFERENCES public.instances(id);

ALTER TABLE ONLY public.quota_reservations
    ADD CONSTRAINT fk_quota_reservations_instance_id FOREIGN KEY (instance_id) REFERENCES public.instances(id);
