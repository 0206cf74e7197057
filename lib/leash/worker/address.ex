defmodule Leash.Worker.Address do
  # Where a worker is asked whether it answers: the addresses that a host stands for.
  @moduledoc false

  @typedoc "What to connect to: an address, or a name and the kind of address that is wanted of it."
  @type t :: {:inet.ip_address() | charlist(), :inet | :inet6}

  @ipv4 {{127, 0, 0, 1}, :inet}
  @ipv6 {{0, 0, 0, 0, 0, 0, 0, 1}, :inet6}

  @doc "Of who names a port alone."
  @spec this_machine() :: [t()]
  def this_machine, do: [@ipv4]

  @doc "All that a host stands for, in the order in which they are tried."
  @spec of(String.t()) :: [t()]
  # What it means is fixed (RFC 6761, 6.3), and a container may have no /etc/hosts to say so.
  def of("localhost"), do: [@ipv4, @ipv6]

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

  @doc "A connection to one of them. The milliseconds left are asked for anew for each."
  @spec connect([t()], :inet.port_number(), [:gen_tcp.connect_option()], (() -> timeout())) ::
          {:ok, :gen_tcp.socket()} | {:error, term()}
  def connect(addresses, port, options, left) do
    Enum.reduce_while(addresses, {:error, :nxdomain}, fn {address, family}, _failed ->
      case :gen_tcp.connect(address, port, [family | options], left.()) do
        {:ok, socket} -> {:halt, {:ok, socket}}
        {:error, reason} -> {:cont, {:error, reason}}
      end
    end)
  end
end
