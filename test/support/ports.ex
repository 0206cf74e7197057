defmodule Leash.Test.Ports do
  @moduledoc """
  TCP ports of this machine for servers that tests start.
  """

  alias Leash.Test.Python

  @doc "Returns a port without a listener."
  @spec free() :: :inet.port_number()
  def free do
    {:ok, listener} = :gen_tcp.listen(0, ip: {127, 0, 0, 1})
    {:ok, port} = :inet.port(listener)
    :ok = :gen_tcp.close(listener)
    port
  end

  @doc """
  Whether a process listens on a port of IPv4, as /proc/net/tcp says.

  A connection would not show it: without a listener, TCP may connect a socket to itself.
  """
  @spec listened?(:inet.port_number()) :: boolean()
  def listened?(port) do
    hex = port |> Integer.to_string(16) |> String.pad_leading(4, "0")
    # State 0A is TCP_LISTEN.
    File.read!("/proc/net/tcp") =~ ~r/: [0-9A-F]{8}:#{hex} [0-9A-F]{8}:0000 0A /
  end

  @doc "Returns the line of shell that becomes `web.py` on a port."
  @spec http(:inet.port_number(), [term()]) :: String.t()
  def http(port, words),
    do: "exec " <> Python.quote_all(Python.argv("web.py", Enum.map([port | words], &to_string/1)))
end
