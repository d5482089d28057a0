"""Public addresses that name no single site, and what a refused visitor is told."""

import pytest
from page_client import call, serving

from jopa.errors import SettingError
from jopa.web.access import public_origin


@pytest.mark.parametrize(
    "url", ["https://*.example.org", "https://a b.org", "https://a..b", "https://a,b.org", "https://."]
)
def test_a_pattern_or_a_list_of_names_is_no_address(url):
    with pytest.raises(SettingError, match=r"--public-url must be an address such as https://jopa\.example\.org"):
        public_origin(url)


@pytest.mark.parametrize("url", ["http://jopa_1:8080", "https://[2001:db8::1]", "http://10.0.0.7"])
def test_names_of_one_machine_are(url):
    assert public_origin(url + "/jopa/") == url


def test_a_refused_visitor_learns_of_the_option(llama):
    status, text = call(serving(llama), headers={"origin": "https://jopa.example.org"})
    assert status == 403
    assert "behind a proxy, --public-url names the page's own site" in text
