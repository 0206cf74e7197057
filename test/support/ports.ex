defmodule Leash.Test.Ports do
  @moduledoc """
  TCP ports of this machine for servers that tests start.
  """

  alias Leash.Test.Python

  @doc "A port that nobody listens on."
  @spec free() :: :inet.port_number()
  def free do
    {:ok, listener} = :gen_tcp.listen(0, ip: {127, 0, 0, 1})
    {:ok, port} = :inet.port(listener)
    :ok = :gen_tcp.close(listener)
    port
  end

  @doc "The line of shell that becomes `web.py` on a port."
  @spec http(:inet.port_number(), [term()]) :: String.t()
  def http(port, words),
    do: "exec " <> Python.quote_all(Python.argv("web.py", Enum.map([port | words], &to_string/1)))
end
