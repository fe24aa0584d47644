"""Listings of servers that do not all follow S3's rules: complete, or an error."""

from __future__ import annotations

from datetime import timedelta

import pytest
from servers import odd_s3
from servers.proxy import FlipBit

from sdpose.errors import UserError
from sdpose.storage import s3_listing

LATER = timedelta(hours=-1)


@pytest.mark.parametrize("server", [odd_s3.no_tokens, odd_s3.version_1_listing])
@pytest.mark.parametrize("count", [0, 3, 7])
def test_a_listing_without_continuation_tokens(server, count, moto, proxied):
    with proxied(moto) as (proxy, store):
        keys = [f"m/{number}.json" for number in range(count)]
        for key in keys:
            store.put(key, b"x")
        proxy.plan = server(page=3)
        assert list(store.list("m")) == keys


@pytest.mark.parametrize("kind", ["same", "new"])
def test_a_listing_without_end(kind, moto, proxied, monkeypatch):
    monkeypatch.setattr(s3_listing, "MAX_PAGES", 20)
    said = "the same page" if kind == "same" else "did not end after 20 pages"
    with proxied(moto) as (proxy, store):
        proxy.plan = odd_s3.endless_listing(kind)
        with pytest.raises(UserError, match=said):
            list(store.list("m"))
        with pytest.raises(UserError, match=said):
            store.sweep(LATER)


def test_a_listing_of_another_folder(moto, proxied):
    """Its keys, taken for ours, would be read and deleted below our prefix."""
    body = (
        b"<ListBucketResult><IsTruncated>false</IsTruncated>"
        b"<Contents><Key>other/key</Key></Contents></ListBucketResult>"
    )
    with proxied(moto) as (proxy, store):
        proxy.plan = odd_s3.always(odd_s3.answer(200, body))
        with pytest.raises(UserError, match="'other/key', which is not below it"):
            list(store.list("m"))


def test_a_page_that_was_damaged_on_its_way_is_requested_again(moto, proxied):
    """Nothing vouches for a listing's bytes. A bit in the middle of it, which long names put into
    the folder of a key, made a key of elsewhere of it: found by `make faults`."""
    with proxied(moto) as (proxy, store):
        folder = "m" * 120
        for count in range(1, 7):
            store.put(f"{folder}/{'k' * 10 * count}{count}.json", b"x")
            expected = list(store.list(folder))
            proxy.fault_at(1, FlipBit("answer"))
            found = list(store.list(folder))
            assert len(found) == len(expected)
            proxy.reset()


def test_a_refused_listing_names_the_bucket(moto, proxied):
    with proxied(moto) as (proxy, store):
        proxy.plan = odd_s3.always(odd_s3.error(403, "AccessDenied"))
        with pytest.raises(UserError, match=f"^s3://{store.bucket}/{store.prefix}/m/: Acc"):
            list(store.list("m"))


def test_unfinished_uploads_of_a_server_that_takes_a_prefix_for_a_key(moto, proxied):
    """MinIO."""
    with proxied(moto) as (proxy, store):
        ours, other = f"{store.prefix}/half", f"{store.prefix}-other/half"
        for key in (ours, other):
            moto.client().create_multipart_upload(Bucket=store.bucket, Key=key)
        proxy.plan = odd_s3.uploads_by_exact_key()
        assert store.sweep(LATER, dry_run=False) == (ours,)
        assert store.sweep(LATER) == ()
        proxy.reset()
        left = moto.client().list_multipart_uploads(Bucket=store.bucket)["Uploads"]
        assert other in [upload["Key"] for upload in left]


def test_credentials_for_the_prefix_alone_suffice(moto, proxied):
    with proxied(moto) as (proxy, store):

        def policy(request):
            asked = odd_s3.query(request)
            allowed = "uploads" not in asked or asked.get("prefix", "").startswith(store.prefix)
            return None if allowed else odd_s3.error(403, "AccessDenied")

        proxy.plan = policy
        assert store.sweep(LATER) == ()
        proxy.plan = odd_s3.always(odd_s3.error(403, "AccessDenied"))
        with pytest.raises(UserError, match="AccessDenied"):
            store.sweep(LATER)


def test_all_pages_of_unfinished_uploads(moto, proxied):
    with proxied(moto) as (proxy, store):
        keys = [f"{store.prefix}/{number}" for number in range(7)]
        proxy.plan = odd_s3.uploads_in_pages(left := list(keys), 3)
        assert store.sweep(LATER) == tuple(keys)
        assert store.sweep(LATER, dry_run=False) == tuple(keys)
        assert not left
