defmodule Leash.Probe.AddressTest do
  use ExUnit.Case, async: true

  alias Leash.Test.Ports
  alias Leash.Probe.Address

  defp ms, do: 1_000

  for {family, address} <- [inet: {127, 0, 0, 1}, inet6: {0, 0, 0, 0, 0, 0, 0, 1}] do
    test "a connection of #{family} to itself is refused, and its port stays free" do
      port = Ports.free()
      address = unquote(Macro.escape(address))
      # The source port that the kernel takes by chance.
      connected = Address.connect([{address, unquote(family)}], port, [port: port], &ms/0)
      assert connected == {:error, :econnrefused}
      # Binds without SO_REUSEADDR, which fails while the port is in TIME_WAIT.
      options = [unquote(family), ip: address, reuseaddr: false]
      assert {:ok, listener} = :gen_tcp.listen(port, options)
      # A server that listens there is another end.
      assert {:ok, socket} = Address.connect([{address, unquote(family)}], port, [], &ms/0)
      :gen_tcp.close(socket)
      :gen_tcp.close(listener)
    end

    test "a server on the loopback of #{family} alone is found" do
      port = Ports.free()
      address = unquote(Macro.escape(address))
      {:ok, listener} = :gen_tcp.listen(port, [unquote(family), ip: address])

      for addresses <- [Address.this_machine(), Address.of("localhost")],
          do: assert({:ok, _socket} = Address.connect(addresses, port, [], &ms/0))

      :gen_tcp.close(listener)
    end
  end

  test "the reason is that of the first address that is one" do
    port = Ports.free()
    nowhere = {~c"no.such.host.invalid", :inet}
    [ipv4 | _] = Address.this_machine()
    assert Address.connect([nowhere, ipv4], port, [], &ms/0) == {:error, :econnrefused}
    assert Address.connect([ipv4, nowhere], port, [], &ms/0) == {:error, :econnrefused}
    assert Address.connect([nowhere], port, [], &ms/0) == {:error, :nxdomain}
  end
end
