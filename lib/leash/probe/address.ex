defmodule Leash.Probe.Address do
  # The addresses that a host stands for, at which a worker is asked.
  @moduledoc false

  @typedoc "The target of a connection: an address, or a name and the wanted kind of address."
  @type t :: {:inet.ip_address() | charlist(), :inet | :inet6}

  @ipv4 {{127, 0, 0, 1}, :inet}
  @ipv6 {{0, 0, 0, 0, 0, 0, 0, 1}, :inet6}

  @doc "Returns both loopbacks for a port without a host: a server may listen on one only."
  @spec this_machine() :: [t()]
  def this_machine, do: [@ipv4, @ipv6]

  @doc "Returns all addresses that a host stands for, in the order in which they are tried."
  @spec of(String.t()) :: [t()]
  # The meaning is fixed (RFC 6761, 6.3), and a container may have no /etc/hosts that says so.
  def of("localhost"), do: this_machine()

  def of(host) do
    charlist = String.to_charlist(host)

    case :inet.parse_strict_address(charlist) do
      {:ok, address} when tuple_size(address) == 4 -> [{address, :inet}]
      {:ok, address} -> [{address, :inet6}]
      # A name may stand for both kinds of addresses, and the worker may listen on one.
      {:error, :einval} -> [{charlist, :inet}, {charlist, :inet6}]
    end
  end

  @doc "Returns the addresses and the port of `{:tcp, target}`."
  @spec tcp(term()) :: {:ok, {[t()], :inet.port_number()}} | :error
  def tcp(port) when is_integer(port) and port in 1..65_535, do: {:ok, {this_machine(), port}}

  def tcp({host, port}) when is_binary(host) and is_integer(port) and port in 1..65_535,
    do: if(String.printable?(host) and host != "", do: {:ok, {of(host), port}}, else: :error)

  def tcp(_other), do: :error

  @doc """
  Returns whether a path can be that of a socket: unix(7) has room for 108 bytes with a NUL.

  The path is absolute, because the program may have another working directory.
  """
  @spec unix?(term()) :: boolean()
  def unix?("/" <> _ = path), do: byte_size(path) <= 107 and not String.contains?(path, <<0>>)
  def unix?(_other), do: false

  @doc "Returns whether only processes of this machine can answer there."
  @spec loopback?(t()) :: boolean()
  def loopback?({{127, _, _, _}, :inet}), do: true
  def loopback?(address), do: address == @ipv6

  @doc """
  Connects to the first of the addresses that accepts. Otherwise returns the first known reason.

  `left` returns the milliseconds that are left for each address.
  """
  @spec connect([t()], :inet.port_number(), [:gen_tcp.connect_option()], (() -> timeout())) ::
          {:ok, :gen_tcp.socket()} | {:error, term()}
  def connect(addresses, port, options, left) do
    Enum.reduce_while(addresses, {:error, :nxdomain}, fn address, failed ->
      case connect_to(address, port, options, left.()) do
        {:ok, socket} -> {:halt, {:ok, socket}}
        {:error, reason} when failed == {:error, :nxdomain} -> {:cont, {:error, reason}}
        {:error, _reason} -> {:cont, failed}
      end
    end)
  end

  defp connect_to({address, family}, port, options, ms) do
    # Passive, so that a socket whose server closes at once can still be asked for its names.
    options = [family, {:active, false} | options]

    with {:ok, socket} <- :gen_tcp.connect(address, port, options, ms),
         do: if(itself?(socket), do: drop(socket), else: {:ok, socket})
  end

  # The kernel takes the port of a connection from a range that may contain the target's port. If
  # it takes that very port and nothing listens there, TCP connects the socket to itself (RFC
  # 9293, 3.5).
  defp itself?(socket) do
    with {:ok, name} <- :inet.sockname(socket) do
      :inet.peername(socket) == {:ok, name}
    else
      _gone -> false
    end
  end

  # With a reset, because no process could listen on a port in TIME_WAIT for a minute.
  defp drop(socket) do
    _ = :inet.setopts(socket, linger: {true, 0})
    :ok = :gen_tcp.close(socket)
    {:error, :econnrefused}
  end
end
