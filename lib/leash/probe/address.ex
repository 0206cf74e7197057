defmodule Leash.Probe.Address do
  # Where a worker is asked whether it answers: the addresses that a host stands for.
  @moduledoc false

  @typedoc "What to connect to: an address, or a name and the kind of address that is wanted of it."
  @type t :: {:inet.ip_address() | charlist(), :inet | :inet6}

  @ipv4 {{127, 0, 0, 1}, :inet}
  @ipv6 {{0, 0, 0, 0, 0, 0, 0, 1}, :inet6}

  @doc "Of a port without a host: both loopbacks, since a server may listen on one of them only."
  @spec this_machine() :: [t()]
  def this_machine, do: [@ipv4, @ipv6]

  @doc "All that a host stands for, in the order in which they are tried."
  @spec of(String.t()) :: [t()]
  # What it means is fixed (RFC 6761, 6.3), and a container may have no /etc/hosts to say so.
  def of("localhost"), do: this_machine()

  def of(host) do
    charlist = String.to_charlist(host)

    case :inet.parse_strict_address(charlist) do
      {:ok, address} when tuple_size(address) == 4 -> [{address, :inet}]
      {:ok, address} -> [{address, :inet6}]
      # A name may stand for both kinds of addresses, and the worker listen on one.
      {:error, :einval} -> [{charlist, :inet}, {charlist, :inet6}]
    end
  end

  @doc "Whether only processes of this machine can answer there."
  @spec loopback?(t()) :: boolean()
  def loopback?({{127, _, _, _}, :inet}), do: true
  def loopback?(address), do: address == @ipv6

  @doc """
  A connection to the first of them that accepts one, else the reason of the first that is known.

  The milliseconds left are asked for anew for each.
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
    # Passive, so that a server that closes at once leaves a socket that can be asked.
    options = [family, {:active, false} | options]

    with {:ok, socket} <- :gen_tcp.connect(address, port, options, ms),
         do: if(itself?(socket), do: drop(socket), else: {:ok, socket})
  end

  # The kernel takes the port of a connection from the range in which the asked one may be. If it
  # takes that very port and nothing listens there, TCP connects the socket to itself (RFC 9293,
  # 3.5).
  defp itself?(socket) do
    with {:ok, name} <- :inet.sockname(socket) do
      :inet.peername(socket) == {:ok, name}
    else
      _gone -> false
    end
  end

  # With a reset, since a port in TIME_WAIT could not be listened on for a minute.
  defp drop(socket) do
    _ = :inet.setopts(socket, linger: {true, 0})
    :ok = :gen_tcp.close(socket)
    {:error, :econnrefused}
  end
end
