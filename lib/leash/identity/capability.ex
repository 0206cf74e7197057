defmodule Leash.Identity.Capability do
  # The capabilities of the kernel: their names, from capabilities(7), in the order of their
  # numbers.
  @moduledoc false

  alias Leash.Suggestion

  @names ~w(chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap
            linux_immutable net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner
            sys_module sys_rawio sys_chroot sys_ptrace sys_pacct sys_admin sys_boot sys_nice
            sys_resource sys_time sys_tty_config mknod lease audit_write audit_control setfcap
            mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf
            checkpoint_restore)a

  @expected "a list of capabilities such as :net_bind_service, without cap_"

  @doc "Returns the words for a list of capabilities."
  @spec expected() :: String.t()
  def expected, do: @expected

  @doc "Checks a list of capabilities."
  @spec list(term()) :: {:ok, [atom()]} | {:error, String.t()}
  def list(names) do
    if is_list(names) and not List.improper?(names) do
      case Enum.reject(names, &(&1 in @names)) do
        [] -> {:ok, Enum.uniq(names)}
        [wrong | _others] -> {:error, @expected <> hint(wrong)}
      end
    else
      {:error, @expected}
    end
  end

  defp hint(wrong) do
    name = if is_atom(wrong) or is_binary(wrong), do: wrong |> to_string() |> String.downcase()

    case name && Suggestion.nearest(String.replace_prefix(name, "cap_", ""), @names) do
      nil -> "; #{inspect(wrong)} is none"
      meant -> "; #{inspect(wrong)} is none, " <> Suggestion.did_you_mean(meant)
    end
  end

  @doc "Returns the names of the bits of a set."
  @spec names(non_neg_integer()) :: [atom()]
  def names(set) do
    for {name, number} <- Enum.with_index(@names),
        Bitwise.band(set, Bitwise.bsl(1, number)) != 0,
        do: name
  end
end
